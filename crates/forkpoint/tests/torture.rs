//! A short run of the torture: see `crates/torture`, and `cargo xtask torture` for long ones.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use forkpoint_torture::{Options, run};

/// `FORKPOINT_TEST_SEED` and `FORKPOINT_TEST_CYCLES` choose another run.
#[tokio::test(flavor = "multi_thread")]
async fn no_ready_checkpoint_is_lost_or_wrong_whatever_dies_fills_up_or_rots() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let options = Options {
        program: env!("CARGO_BIN_EXE_forkpoint").into(),
        seed: number("FORKPOINT_TEST_SEED").unwrap_or_else(std::process::id).into(),
        first: 0,
        cycles: number("FORKPOINT_TEST_CYCLES").unwrap_or(50),
        tell: |line| eprintln!("{line}"),
    };
    let report = run(&options).await.unwrap_or_else(|error| panic!("{error:#}"));
    eprintln!("{report}");
    assert_eq!(report.cycles, options.cycles);
    assert!(report.deaths > 0 && report.checkpoints > u64::from(report.cycles), "{report:?}");
}
