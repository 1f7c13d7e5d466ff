// Cross-origin isolation on hosts that set no headers: the service worker sw.ts adds them, from the second load on.
//
// Invariant: the page reloads itself at most once a tab for this; where it does not help, the page goes on with one thread and says so.

const RELOADED = 'tinygpt-reloaded';

/** Milliseconds that the service worker may take to control the page. */
const PATIENCE = 4000;

/** Resolves to true if the page is about to reload. */
export async function isolate(): Promise<boolean> {
  if (globalThis.crossOriginIsolated || !('serviceWorker' in navigator) || reloaded()) return false;
  try {
    // Undefined where an extension or a test stands in the way.
    const registration: ServiceWorkerRegistration | undefined = await navigator.serviceWorker.register('./sw.js');
    if (registration === undefined) return false;
    const controlled = new Promise<boolean>((resolve) => {
      if (navigator.serviceWorker.controller !== null) resolve(true);
      navigator.serviceWorker.addEventListener('controllerchange', () => resolve(true));
      setTimeout(() => resolve(false), PATIENCE);
    });
    if (!(await controlled) || !remember()) return false;
    location.reload();
    return true;
  } catch {
    // Refused: by the user's settings, or because the page was opened from a file.
    return false;
  }
}

function reloaded(): boolean {
  try {
    return sessionStorage.getItem(RELOADED) !== null;
  } catch {
    return true;
  }
}

function remember(): boolean {
  try {
    sessionStorage.setItem(RELOADED, 'once');
    return true;
  } catch {
    return false;
  }
}
