//! Prints how many events a data directory of `ephapse serve` has, when all of them verify.

use ephapse_store::{Reader, RedbStore};
use std::{path::Path, process::ExitCode, rc::Rc};

fn main() -> ExitCode {
    let Some(directory) = std::env::args().nth(1) else {
        eprintln!("usage: verify-events DATA_DIR");
        return ExitCode::from(2);
    };
    let verified = futures_executor::block_on(async {
        let store = Reader::new(Rc::new(RedbStore::open(Path::new(&directory))?));
        ephapse_verify::verify(&store).await
    });
    match verified {
        Ok(verified) => {
            println!("{verified}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{directory}: {error}");
            ExitCode::FAILURE
        }
    }
}
