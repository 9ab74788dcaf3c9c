// What the project needs from outside, installed on first use: npm packages, the Rust toolchain, wasm-bindgen's program, a Chromium.
// Everything that is not npm's or rustup's lands in `.cache/`.

import { existsSync, readFileSync, statSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { CommandFailed, path, run } from './run.mjs';

const newer = (a, b) => statSync(a).mtimeMs > statSync(b).mtimeMs;

/** Installs the npm packages of the lockfile when they are missing or older than it. */
export async function npmPackages() {
  const installed = path('node_modules', '.package-lock.json');
  if (existsSync(installed) && !newer(path('package-lock.json'), installed)) return;
  console.log('Installing npm packages');
  await run('npm', ['ci', '--no-fund', '--no-audit', '--loglevel=error']);
}

/** Makes sure that cargo answers with the toolchain and the targets of rust-toolchain.toml. */
export async function rustToolchain() {
  const cargo = await run('cargo', ['--version'], { quiet: true, mayFail: true });
  if (cargo.code === 127) throw new CommandFailed('cargo was not found. Install Rust with rustup (https://rustup.rs) and open a new terminal.');
  const rustup = await run('rustup', ['target', 'list', '--installed'], { quiet: true, mayFail: true });
  if (rustup.code === 127) return; // A Rust that rustup does not manage: cargo will say what it lacks.
  if (cargo.code === 0 && rustup.output.includes('wasm32-unknown-unknown')) return;
  const channel = /channel = "([^"]+)"/.exec(readFileSync(path('rust-toolchain.toml'), 'utf8'))[1];
  await run('rustup', ['toolchain', 'install', channel, '--profile', 'minimal', '--component', 'rustfmt,clippy', '--target', 'wasm32-unknown-unknown']);
}

/** The directory of a wasm-bindgen program of exactly the version that Cargo.lock names: the glue and the library must match. */
export async function wasmBindgen() {
  const version = /name = "wasm-bindgen"\nversion = "([^"]+)"/.exec(readFileSync(path('Cargo.lock'), 'utf8'))[1];
  const present = await run('wasm-bindgen', ['--version'], { quiet: true, mayFail: true });
  if (present.output.trim() === `wasm-bindgen ${version}`) return '';
  const home = path('.cache', `wasm-bindgen-${version}`);
  const bin = `${home}/bin`;
  if (!existsSync(`${bin}/wasm-bindgen`)) {
    console.log(`Installing wasm-bindgen ${version} into .cache (once, about two minutes)`);
    await mkdir(home, { recursive: true });
    await run('cargo', ['install', 'wasm-bindgen-cli', '--version', version, '--locked', '--quiet', '--root', home]);
  }
  return bin;
}

const chromiumNames = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];

/** The path of a Chromium; installs Debian's when this is Debian and we may. `CHROMIUM` overrides the search. */
export async function chromium() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  const found = await findChromium();
  if (found) return found;
  const debian = existsSync('/etc/debian_version') && process.getuid?.() === 0;
  if (debian) {
    console.log('Installing chromium');
    const apt = { env: { DEBIAN_FRONTEND: 'noninteractive' }, quiet: true };
    await run('apt-get', ['update'], apt);
    await run('apt-get', ['install', '-y', '--no-install-recommends', 'chromium'], apt);
    const installed = await findChromium();
    if (installed) return installed;
  }
  throw new CommandFailed(
    'The browser tests need Chromium. Install it (Debian and Ubuntu: sudo apt-get install chromium) or set CHROMIUM to the path of a Chrome or Chromium.',
  );
}

async function findChromium() {
  for (const directory of process.env.PATH.split(':')) {
    for (const name of chromiumNames) if (existsSync(`${directory}/${name}`)) return `${directory}/${name}`;
  }
  const mac = '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome';
  return existsSync(mac) ? mac : undefined;
}

/** Everything but the browser. */
export async function setup() {
  await npmPackages();
  await rustToolchain();
  return wasmBindgen();
}

