// Exports of the tinygpt command for the scripts of this folder.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** The tinygpt command: $TINYGPT, or the one that `cargo build --release` makes. */
export function tinygpt() {
  const built = new URL('../target/release/tinygpt', import.meta.url).pathname;
  const command = process.env.TINYGPT ?? built;
  if (!existsSync(command)) {
    throw new Error(`there is no ${command}: run \`cargo build --release\`, or set TINYGPT to the command`);
  }
  return command;
}

/** A folder that is removed when the process ends. */
export function temporaryFolder() {
  const folder = mkdtempSync(join(tmpdir(), 'tinygpt-web-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Runs `tinygpt export` with these flags into `folder`; returns the folder. */
export function exportModel(flags, folder) {
  const run = spawnSync(tinygpt(), ['export', '--format', 'web', ...flags, '-o', folder], { encoding: 'utf8' });
  if (run.status !== 0) throw new Error(`tinygpt export ${flags.join(' ')} failed: ${run.stderr}`);
  return folder;
}
