//! `cargo xtask torture` starts this: tortures a server and reports.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use clap::Parser;
use forkpoint_torture::{Options, run};
use std::{path::PathBuf, process::ExitCode};

/// Tortures a real server and its vault, as root.
#[derive(Debug, Parser)]
struct Args {
    /// The forkpoint program
    #[arg(long)]
    program: PathBuf,
    /// Where the randomness comes from [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// How many cycles
    #[arg(long, default_value_t = 50)]
    cycles: u32,
    /// The first cycle, to see a failure again
    #[arg(long, default_value_t = 0)]
    first: u32,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(|| rand::random::<u32>().into());
    println!("seed {seed}");
    let options = Options {
        program: args.program,
        seed,
        first: args.first,
        cycles: args.cycles,
        tell: |line| println!("{line}"),
    };
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(&options)));
    match outcome {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("torture: {error:#}");
            ExitCode::FAILURE
        }
    }
}
