import { start } from 'ephapse';

const app = document.getElementById('app') as HTMLElement;
try {
  const server = await start({ onProgress: ({ stage, loaded, total }) => { app.textContent = `${stage} ${String(loaded)} of ${String(total)}`; } });
  app.textContent = `${server.serverName} answers at ${server.baseUrl}`;
} catch (error) {
  app.textContent = String(error);
}
