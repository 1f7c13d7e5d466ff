// WebGPU in Node: Dawn (the npm package `webgpu`, of codegen-wgsl/tint) on Chromium's SwiftShader.
//
// Dawn's process does not end by itself while a device lives: tests end with `close` of it.
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';

export const ICD = '/usr/lib/chromium/vk_swiftshader_icd.json';
const PACKAGE = new URL('../../codegen-wgsl/tint/package.json', import.meta.url);

/** Why there is no WebGPU here; undefined if there is. */
export function whyNoDawn() {
  if (!existsSync(ICD)) return `there is no ${ICD}: install chromium`;
  if (!existsSync(new URL('node_modules/webgpu', PACKAGE))) return 'there is no package webgpu: run `npm ci` in codegen-wgsl/tint';
  return undefined;
}

/** The `navigator.gpu` of Dawn on SwiftShader. */
export function dawn() {
  process.env.VK_ICD_FILENAMES = ICD;
  const { create } = createRequire(PACKAGE)('webgpu');
  // Dawn's objects do not keep it alive.
  globalThis.dawnInstance = create(['backend=vulkan']);
  return globalThis.dawnInstance;
}
