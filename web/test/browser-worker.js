// Drives a Runner in a Worker of a page.
import { drive } from './drive.js';

globalThis.onmessage = async ({ data }) => {
  globalThis.postMessage(await drive(data).catch((error) => ({ error: error.message })));
};
