// `npm start`: builds what is missing and serves the demo on this machine. `PORT` chooses the port.

import { web } from './build.mjs';
import { main, path } from './lib/run.mjs';
import { serve } from './lib/serve.mjs';

await main(async () => {
  await web();
  const { url } = await serve(path('dist', 'www'), { port: Number(process.env.PORT ?? 8080) });
  console.log(`\nephapse runs at ${url}/ (leave with Ctrl-C)`);
});
