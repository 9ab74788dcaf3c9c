// `npm start`: builds what is missing and serves the demo on this machine. `PORT` chooses the port.

import { web } from './build.mjs';
import { CommandFailed, main, path } from './lib/run.mjs';
import { serve } from './lib/serve.mjs';

await main(async () => {
  await web({ quick: true });
  const port = Number(process.env.PORT ?? 8080);
  const { url } = await serve(path('dist', 'www'), { port, compress: true }).catch((error) => {
    throw error.code === 'EADDRINUSE' ? new CommandFailed(`Port ${port} is taken. Choose another one: PORT=${port + 1} npm start`) : error;
  });
  console.log(`\nephapse runs at ${url}/ (leave with Ctrl-C)`);
});
