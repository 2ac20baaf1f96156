//! Hands the arguments to `cli` and turns the result into an exit code.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    landfall::cli::run()
}
