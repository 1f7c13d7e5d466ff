// Numbers and bytes as people read them.

const grouped = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

/** A message as a sentence of a page: with a capital and a full stop. */
export const sentence = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? '' : '.');

/** 366432 -> "366,432". */
export const count = (n: number): string => grouped.format(n);

/** Three significant digits with a unit: 366432 -> "366 k", 2743296 -> "2.74 M". */
export function short(n: number): string {
  const units: [number, string][] = [[1e12, ' T'], [1e9, ' G'], [1e6, ' M'], [1e3, ' k']];
  const [size, unit] = units.find(([least]) => Math.abs(n) >= least) ?? [1, ''];
  return `${significant(n / size)}${unit}`;
}

/** Three significant digits, without an exponent. */
export function significant(n: number): string {
  if (!Number.isFinite(n)) return String(n);
  const digits = n === 0 ? 0 : Math.max(0, 2 - Math.floor(Math.log10(Math.abs(n))));
  return n.toFixed(Math.min(digits, 6));
}

/** Bytes in binary units: 1572864 -> "1.5 MiB". */
export function bytes(n: number): string {
  const units = ['bytes', 'KiB', 'MiB', 'GiB'];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) [n, unit] = [n / 1024, unit + 1];
  return `${unit === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[unit]}`;
}

/** A loss in nats: "1.0526"; a value that is not finite by its name. */
export const loss = (n: number): string => (Number.isFinite(n) ? n.toFixed(4) : Number.isNaN(n) ? 'NaN' : 'infinite');

/** A duration for people: "8 s", "2 min 5 s", "1 h 20 min". */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return 'not known';
  if (seconds < 1) return 'under 1 s';
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${count(Math.floor(whole / 3600))} h ${Math.floor((whole % 3600) / 60)} min`;
}

/** A rate or another small number: "1.20e-4", "0.006". */
export const rate = (n: number): string => (n !== 0 && Math.abs(n) < 1e-3 ? n.toExponential(2) : String(Number(n.toPrecision(3))));

/** A byte as a reader knows it: 32 -> "space". */
export function byteName(byte: number): string {
  const names: Record<number, string> = { 9: 'tab', 10: 'line end', 13: 'return', 32: 'space' };
  if (names[byte] !== undefined) return names[byte];
  return byte > 32 && byte < 127 ? String.fromCharCode(byte) : `byte ${byte}`;
}

/** Bytes as text; what is no UTF-8 shows as replacement characters. */
export const decodeText = (text: Uint8Array): string => new TextDecoder().decode(text);
