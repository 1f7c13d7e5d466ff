//! Trains the model and prints what it writes.

use tinygpt::runtime::Result;
use tinygpt::runtime::cli::ExecArgs;
use tinygpt::runtime::compile::ExecOptions;

const STEPS: u64 = 1500;

fn main() -> Result<()> {
    let options = ExecOptions::resolve(&ExecArgs::default(), None)?;
    let model = own_model::model()?;
    println!("window_mlp: {} parameters", model.params());
    let mut trained = own_model::train(&model, &options, STEPS, |step, loss| {
        if step == 1 || step % 250 == 0 {
            println!("step {step:>4}  loss {loss:.4}");
        }
    })?;
    let text = own_model::sample(&model, &mut trained, &options, "Once upon a time", 240)?;
    println!("{}", String::from_utf8_lossy(&text));
    Ok(())
}
