// Bundles `module.ts` as `spacetime build` does, and once more as CommonJS, for the shim. Node's V8 is older than the
// server's, and so `using` is written in other words.
import { rolldown } from 'rolldown';

const external = [/^spacetime:sys/];
const transform = { target: 'es2022' };

const source = await rolldown({ input: './module.ts', external, transform, platform: 'browser' });
await source.write({ file: './bundle.mjs', format: 'esm', exports: 'named' });

const bundle = await rolldown({ input: './bundle.mjs', external, transform, platform: 'neutral', treeshake: false });
await bundle.write({ file: './bundle.cjs', format: 'cjs', exports: 'named' });
