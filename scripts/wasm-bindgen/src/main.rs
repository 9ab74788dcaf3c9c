//! `ephapse-wasm-bindgen MODULE --target no-modules|web --out-dir DIR --out-name NAME
//! [--remove-producers-section] [--omit-default-module-path]`

use pico_args::Arguments;
use std::{error::Error, path::PathBuf};
use wasm_bindgen_cli_support::Bindgen;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = Arguments::from_env();
    let mut bindgen = Bindgen::new();
    let target: String = arguments.value_from_str("--target")?;
    match &*target {
        "no-modules" => bindgen.no_modules(true)?,
        "web" => bindgen.web(true)?,
        other => return Err(format!("--target {other}: it is no-modules or web").into()),
    };
    let directory: PathBuf = arguments.value_from_str("--out-dir")?;
    let name: String = arguments.value_from_str("--out-name")?;
    bindgen.out_name(&name).typescript(false);
    bindgen.remove_producers_section(arguments.contains("--remove-producers-section"));
    bindgen.omit_default_module_path(arguments.contains("--omit-default-module-path"));
    let module: PathBuf = arguments.free_from_str()?;
    let rest = arguments.finish();
    if !rest.is_empty() {
        return Err(format!("not known: {rest:?}").into());
    }
    bindgen.input_path(module).generate(directory)?;
    Ok(())
}
