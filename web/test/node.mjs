// Drives a Runner in Node. A JSON request on standard input (see drive.js), its answer on standard output; a failure is {"error"}.
import { readFileSync } from 'node:fs';
import { drive } from './drive.js';

const answer = await drive(JSON.parse(readFileSync(0, 'utf8'))).catch((error) => ({ error: error.message }));
console.log(JSON.stringify(answer));
