//! Hashing where nothing is kept: what a sweep finds is what a flight finds.

use super::*;

fn bind_to_check(model: &SignedModel, cores: usize) -> Bound {
    let options = Options {
        keep_tags: false,
        threads: 8,
        memory: Some(1 << 20),
        cores,
        ..Options::default()
    };
    bind_as(model, options)
}

/// The findings of a check of all resources, file by file, and how many bytes were hashed.
fn check(model: &SignedModel) -> (Vec<(&'static str, usize)>, u64) {
    let Bound { engine, files } = bind_to_check(model, 2);
    let (sender, receiver) = channel();
    for (place, file) in files.iter().enumerate() {
        let sender = sender.clone();
        engine.verify(file, file.all_resources(), Haste::Some, move |result| {
            sender.send((place, result.map(|()| Vec::new()))).unwrap();
        });
    }
    let mut found: Vec<_> = files
        .iter()
        .map(|_| receiver.recv().expect("each is answered"))
        .map(|(place, result)| (place, outcome(&result)))
        .collect();
    found.sort();
    let rejected = |file: &Arc<VerifiedFile>| {
        engine
            .findings()
            .iter()
            .filter(|finding| finding.path == *file.path())
            .count()
    };
    let found = found
        .iter()
        .map(|&(place, word)| (word, rejected(&files[place])))
        .collect();
    (found, engine.counters().hashed_bytes)
}

/// Sizes around pieces and pages.
const SIZES: [usize; 9] = [1, 4095, 4096, 65_535, 65_536, 65_537, 3 * C, 5 * C + 17, 2 << 20];

fn files() -> Vec<(String, Vec<u8>)> {
    let files = SIZES.iter().cycle().take(40).enumerate();
    files
        .map(|(n, &size)| (format!("{n:02}"), content(size + n % 2)))
        .collect()
}

fn model(method: Method, algorithm: Algorithm) -> SignedModel {
    let files = files();
    let named: Vec<_> = files
        .iter()
        .map(|(name, content)| (name.as_str(), content.clone()))
        .collect();
    SignedModel::new(&named, algorithm, method)
}

const METHODS: [Method; 4] = [
    Method::Files,
    Method::Shards(4096),
    Method::Shards(C),
    Method::Shards(1 << 20),
];

#[test]
fn a_model_that_lies_in_the_page_cache_verifies() {
    for method in METHODS {
        for algorithm in [Algorithm::Sha256, Algorithm::Blake3] {
            let (found, hashed) = check(&model(method, algorithm));
            assert!(
                found.iter().all(|found| *found == ("bytes", 0)),
                "{method:?} {algorithm} {found:?}"
            );
            let all: usize = files().iter().map(|(_, content)| content.len()).sum();
            assert_eq!(hashed, all as u64, "{method:?} {algorithm}: each byte once");
        }
    }
}

#[test]
fn one_bit_anywhere_is_found_and_nothing_else() {
    for method in METHODS {
        let model = model(method, Algorithm::Sha256);
        let mut want = vec![("bytes", 0); 40];
        for (place, (name, content)) in files().iter().enumerate().step_by(3) {
            let file = File::options().write(true).open(model.file(name)).unwrap();
            let at = (content.len() - 1) * place / 40;
            file.write_all_at(&[content[at] ^ 0x10], at as u64).unwrap();
            want[place] = ("rejected", 1);
        }
        assert_eq!(check(&model).0, want, "{method:?}");
    }
}

#[test]
fn a_file_that_is_cut_short_or_gone_while_others_are_swept_costs_only_itself() {
    for method in [Method::Files, Method::Shards(C)] {
        let model = model(method, Algorithm::Sha256);
        let bound = |at: usize| files()[at].clone();
        let (cut, gone, longer) = (bound(8), bound(17), bound(15));
        let resize = |(name, _): &(String, Vec<u8>), size: usize| {
            let file = File::options().write(true).open(model.file(name)).unwrap();
            file.set_len(size as u64).unwrap();
        };
        if matches!(method, Method::Files) {
            resize(&longer, longer.1.len() + 1);
        }
        let Bound { engine, files } = bind_to_check(&model, 2);
        resize(&cut, cut.1.len() - 1);
        // What is left of it matches the signed digest; the size that was bound does not.
        resize(&longer, longer.1.len());
        std::fs::remove_file(model.file(&gone.0)).unwrap();
        let (sender, receiver) = channel();
        for file in &files {
            let (sender, name) = (sender.clone(), file.path().as_str().to_owned());
            engine.verify(file, file.all_resources(), Haste::Some, move |result| {
                sender
                    .send((name, outcome(&result.map(|()| Vec::new()))))
                    .unwrap();
            });
        }
        for _ in &files {
            let (name, word) = receiver.recv().unwrap();
            let want = match name {
                _ if name == cut.0 => "rejected",
                _ if name == longer.0 && matches!(method, Method::Files) => "rejected",
                _ if name == gone.0 => "source",
                _ => "bytes",
            };
            assert_eq!(word, want, "{method:?} {name}");
        }
    }
}

/// Each check is asked for at the moment when the thread that swept the one before finds nothing left to do.
#[test]
fn no_flight_is_left_behind_by_a_thread_that_ends_its_sweep() {
    let names: Vec<_> = (0..3000).map(|n| format!("{n:04}")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), vec![1; 2])).collect();
    let model = SignedModel::new(&files, Algorithm::Sha256, Method::Shards(4096));
    let Bound { engine, files } = bind_to_check(&model, 1);
    std::thread::scope(|scope| {
        for files in files.chunks(750) {
            let engine = &engine;
            scope.spawn(move || {
                for file in files {
                    let (sender, receiver) = channel();
                    engine.verify(file, file.all_resources(), Haste::Some, move |result| {
                        sender.send(result.is_ok()).unwrap();
                    });
                    let patience = std::time::Duration::from_secs(20);
                    assert!(receiver.recv_timeout(patience).expect("it is answered"));
                }
            });
        }
    });
}
