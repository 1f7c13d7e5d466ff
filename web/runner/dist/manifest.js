// The manifest of an export, as `tinygpt export --format web` writes it. docs/WASM.md is its specification.
export const FORMAT = 'tinygpt-web';
/** Version of the manifest that this runner reads. */
export const VERSION = 1;
/** Parses manifest.json; the error says what was found instead. */
export function parseManifest(text) {
    let manifest;
    try {
        manifest = JSON.parse(text);
    }
    catch (error) {
        throw new Error(`manifest.json is truncated or no JSON (${error.message}): export again`);
    }
    if (manifest?.format !== FORMAT) {
        throw new Error(`the manifest states the format ${JSON.stringify(manifest?.format)}, and "${FORMAT}" was expected: export with \`tinygpt export --format web\``);
    }
    if (manifest.version !== VERSION) {
        throw new Error(`the manifest has version ${manifest.version}, and this runner reads version ${VERSION}: use the runner in the folder of the export`);
    }
    return manifest;
}
