//! Feeds every input that is committed under `fuzz/` to the checks of the fuzz targets: what a fuzzer found once stays found, without a fuzzer.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "a test, which reads the committed inputs")]

#[path = "../../../fuzz/src/lib.rs"]
#[allow(unreachable_pub, clippy::wildcard_enum_match_arm, reason = "the library of another workspace")]
mod checks;

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

#[test]
fn every_committed_input_passes_the_checks_of_its_target() {
    for (target, check) in checks::TARGETS {
        let inputs: Vec<PathBuf> = FOLDERS.iter().flat_map(|folder| entries(&root().join(folder).join(target))).collect();
        assert!(inputs.len() > 10, "{target} has {} inputs", inputs.len());
        for input in inputs {
            let bytes = fs::read(&input).unwrap();
            assert!(catch_unwind(|| check(&bytes)).is_ok(), "{} does not pass, see above", input.display());
        }
    }
}

#[test]
fn every_folder_of_inputs_and_every_fuzz_target_is_checked_here() {
    let checked: BTreeSet<String> = checks::TARGETS.iter().map(|(target, _)| (*target).to_owned()).collect();
    for folder in FOLDERS.into_iter().chain(["fuzz_targets"]) {
        let found: BTreeSet<String> =
            entries(&root().join(folder)).iter().map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        assert_eq!(found, checked, "fuzz/{folder}");
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

const FOLDERS: [&str; 2] = ["seeds", "corpus"];
