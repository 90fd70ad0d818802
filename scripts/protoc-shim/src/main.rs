//! A protoc with just the flags that `prost-build` passes: `-I`, `-o`,
//! `--include_imports`, `--include_source_info` and `--experimental_*`.

use std::error::Error;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let mut includes = Vec::new();
    let mut files = Vec::new();
    let mut output = None;
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--version" => {
                println!("libprotoc 30.0 (protox)");
                return Ok(());
            }
            "-I" | "--proto_path" => includes.push(value()?),
            "-o" | "--descriptor_set_out" => output = Some(value()?),
            flag if flag.starts_with("-I") => includes.push(flag[2..].to_owned()),
            flag if flag.starts_with("--proto_path=") => includes.push(flag[13..].to_owned()),
            flag if flag.starts_with("--descriptor_set_out=") => output = Some(flag[21..].to_owned()),
            flag if flag.starts_with("--") => {}
            file => files.push(file.to_owned()),
        }
    }
    let output = output.ok_or("no output: pass -o FILE")?;
    let mut compiler = protox::Compiler::new(includes)?;
    compiler.include_imports(true).include_source_info(true).open_files(files)?;
    fs::write(output, compiler.encode_file_descriptor_set())?;
    Ok(())
}
