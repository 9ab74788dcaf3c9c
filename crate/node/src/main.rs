//! The native binary `ephapse`. `ephapse serve` is the homeserver on TCP ports, `ephapse status`
//! asks it how it is; everything Matrix is in `ephapse_homeserver`.

mod options;
mod serve;
mod status;

use clap::Parser;
use options::{Command, Options};
use std::{fmt::Display, process::ExitCode};

fn main() -> ExitCode {
    match Options::parse().command {
        Command::Serve(options) => serve(*options),
        Command::Status(options) => ended(status::status(&options)),
    }
}

fn serve(options: options::Serve) -> ExitCode {
    let filter = match tracing_subscriber::EnvFilter::try_new(options.log_filter()) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("ephapse: --log {}: {error}; for example: info, or info,ephapse_homeserver=debug", options.log);
            return ExitCode::from(2);
        }
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // What the store turns into an error is told as that, with the file and what to do.
        if !ephapse_store::panic_is_caught() {
            tell(panic);
        }
    }));
    ended(serve::serve(options))
}

fn ended(result: Result<(), impl Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ephapse: {error}");
            ExitCode::FAILURE
        }
    }
}
