//! The `outrider` binary.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: outrider::Allocator = outrider::Allocator;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let program = arguments.next().unwrap_or_else(|| "outrider".to_owned());
    outrider::run(&program, &arguments.collect::<Vec<_>>())
}
