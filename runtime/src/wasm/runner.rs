//! The JavaScript runner, compiled from web/runner/src; `npm run check` in web/ proves that it is.

macro_rules! files {
    ($($name:literal)*) => {
        &[$(($name, include_str!(concat!("../../../web/runner/dist/", $name)))),*]
    };
}

/// Scripts of an export, by file name; `index.js` is what a page imports.
pub const SCRIPTS: &[(&str, &str)] = files! {
    "data.js" "engine.js" "features.js" "index.js" "load.js" "manifest.js" "rng.js" "runner.js" "safetensors.js" "sampling.js" "schedule.js" "state.js"
    "worker.js"
};

/// Node's side of the backend `wasm`, which imports some of [`SCRIPTS`].
pub const HOST: (&str, &str) = ("host.js", include_str!("../../../web/runner/dist/host.js"));
