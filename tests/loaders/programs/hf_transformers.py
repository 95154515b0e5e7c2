"""Hugging Face transformers: tokenizer and model from a folder, or by name from a cache, and the embedding of a sentence.

usage: hf_transformers.py MODEL            the folder
       hf_transformers.py MODEL NAME       MODEL is a snapshot in the cache of HF_HOME; NAME is the model's name there
"""

import sys

import torch
from reporting import report
from transformers import AutoModel, AutoTokenizer

SENTENCES = ["The quick brown fox jumps over the lazy dog.", "A model is what was signed."]


def load(model):
    torch.set_num_threads(1)
    name = sys.argv[2] if len(sys.argv) > 2 else model
    tokenizer = AutoTokenizer.from_pretrained(name)
    network = AutoModel.from_pretrained(name).eval()
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = network(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    embedding = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1))
    return {"embeddings": embedding.numpy()}


report(load)
