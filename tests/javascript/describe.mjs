// Writes down the module's own definition.
import { readFile, writeFile } from 'node:fs/promises';
import { Host } from './host.mjs';

const host = new Host(await readFile('bundle.mjs', 'utf8'), { tables: [], reducers: [] });
await host.start();
await writeFile('module.def', host.describe());
