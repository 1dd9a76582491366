//! The corpus in everybody's tests, without a fuzzer.

use std::{fs, path::Path};

fn replay(target: &str) {
    let (_, run) = super::TARGETS.into_iter().find(|(name, _)| *name == target).expect("a target");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in fs::read_dir(&folder).expect("a corpus") {
        let path = entry.expect("a file of it").path();
        // Printed when it fails: the last one is to blame.
        println!("{}", path.display());
        run(&fs::read(&path).expect("a file of it"));
        inputs += 1;
    }
    assert!(inputs > 0, "{} is empty", folder.display());
}

macro_rules! replays {
    ($($name:ident: $target:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                replay(stringify!($target));
            }
        )*

        #[test]
        fn every_target_has_its_turn() {
            assert_eq!(super::TARGETS.map(|(name, _)| name), [$(stringify!($target)),*]);
        }
    };
}

replays! {
    the_corpus_passes_through_a_broker: broker,
    the_corpus_passes_through_the_codec: codec,
    the_corpus_passes_as_settings: config,
    the_corpus_passes_as_imported_files: import,
    the_corpus_passes_through_a_line: line,
    the_corpus_passes_through_mocks: mocks,
    the_corpus_passes_through_a_relay: relay,
    the_corpus_passes_as_rest_requests: rest,
    the_corpus_passes_as_scenarios: scenario,
    the_corpus_passes_as_templates: template,
    the_corpus_passes_as_websocket_frames: websocket,
}
