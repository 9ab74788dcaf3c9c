// Running other programs: where the project lives, and one way to call what it needs.

import { spawn } from 'node:child_process';
import { dirname, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

/** The repository's root. */
export const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');

/** A path inside the repository. */
export const path = (...parts) => join(root, ...parts);

/** A path inside the directory in which cargo leaves what it builds. */
export const built = (...parts) => resolve(root, process.env.CARGO_TARGET_DIR ?? 'target', ...parts);

/** The programs at work. */
const children = new Set();

/** Thrown when a program ends badly; the program has already said why. */
export class CommandFailed extends Error {}

/**
 * Runs a program in the repository's root and shows its output. With `quiet` the output is returned
 * instead of shown; with `tee` both, where `shows` says of each line of the standard output whether
 * it is shown. A program that fails throws, unless `mayFail` is set.
 * @returns {Promise<{code: number, output: string}>}
 */
export function run(command, args = [], { env = {}, cwd = root, quiet = false, tee = false, shows = () => true, mayFail = false } = {}) {
  const capture = quiet || tee;
  const child = spawn(command, args, { cwd, env: { ...process.env, ...env }, stdio: ['ignore', capture ? 'pipe' : 'inherit', capture ? 'pipe' : 'inherit'] });
  children.add(child);
  child.on('close', () => children.delete(child));
  let output = '';
  child.stdout?.on('data', (chunk) => { output += chunk; });
  if (tee) createInterface({ input: child.stdout }).on('line', (line) => { if (shows(line)) process.stdout.write(`${line}\n`); });
  child.stderr?.on('data', (chunk) => { output += chunk; if (tee) process.stderr.write(chunk); });
  return new Promise((resolve, reject) => {
    child.on('error', (error) => {
      if (mayFail) resolve({ code: 127, output: String(error) });
      else reject(new CommandFailed(`${command} could not be started: ${error.message}`));
    });
    child.on('close', (status) => {
      const code = status ?? 1;
      if (code === 0 || mayFail) resolve({ code, output });
      else reject(new CommandFailed(`${[command, ...args].join(' ')} ended with ${code}${quiet ? `\n${output}` : ''}`));
    });
  });
}

/**
 * Runs a script's main function: a program that failed has told its story, anything else shows its
 * stack. What is at work beside it then ends too.
 */
export async function main(body) {
  try {
    await body();
  } catch (error) {
    console.error(error instanceof CommandFailed ? `\n${error.message}` : error);
    process.exitCode = 1;
    for (const child of children) child.kill();
  }
}
