//! Loads a safetensors model with candle, through a mapping as its models do, and says what it got: see
//! `tests/loaders/programs/reporting.py` for the form. It knows nothing of modelfs.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use candle_core::DType;
use candle_core::Device;
use candle_core::safetensors::MmapedSafetensors;
use sha2::Digest as _;
use sha2::Sha256;

fn main() -> Result<(), Box<dyn Error>> {
    let model = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: load MODEL")?);
    let began = Instant::now();
    // SAFETY: candle asks that nobody changes the file while it is mapped. A mount of modelfs never changes, and nobody
    // writes to the folder while this runs.
    let mapped = unsafe { MmapedSafetensors::new(model.join("model.safetensors"))? };
    let mut values = Vec::new();
    for (name, view) in mapped.tensors() {
        let tensor = mapped.load(&name, &Device::Cpu)?;
        let kind = tensor.dtype();
        let shape = tensor.dims().to_vec();
        let flat = tensor.flatten_all()?;
        let bytes: Vec<u8> = match kind {
            DType::F32 => flat
                .to_vec1::<f32>()?
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            DType::I64 => flat
                .to_vec1::<i64>()?
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            other => return Err(format!("{name}: a kind that this model does not have: {other:?}").into()),
        };
        if bytes.len() != view.data().len() {
            return Err(format!("{name}: {} bytes became {}", view.data().len(), bytes.len()).into());
        }
        values.push((format!("{name} {} {shape:?}", kind.as_str()), bytes));
    }
    let took = began.elapsed();
    values.sort();
    for (name, bytes) in values {
        let digest: String = Sha256::digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        println!("{digest} {} {name}", bytes.len());
    }
    println!("loaded in {:.6} s", took.as_secs_f64());
    Ok(())
}
