// Preloaded into claude-code-templates: its catalogue on GitHub becomes a folder, and the network goes away.
//   OFFLINE_CATALOGUE=<folder that stands for the repository's main branch> NODE_OPTIONS="--require <this file>"
'use strict';
const { readFile } = require('node:fs/promises');
const { join, normalize } = require('node:path');

const CATALOGUE = 'https://raw.githubusercontent.com/davila7/claude-code-templates/main/';
const folder = process.env.OFFLINE_CATALOGUE;

async function fromFolder(url) {
  const name = normalize(decodeURIComponent(new URL(url).pathname.slice(new URL(CATALOGUE).pathname.length)));
  if (name.startsWith('..')) return new Response('outside the catalogue', { status: 400 });
  try {
    return new Response(await readFile(join(folder, name)), { status: 200 });
  } catch (error) {
    if (error.code !== 'ENOENT') throw error;
    return new Response('404: Not Found', { status: 404, statusText: 'Not Found' });
  }
}

globalThis.fetch = async (request) => {
  const url = typeof request === 'string' ? request : String(request.url ?? request);
  if (folder && url.startsWith(CATALOGUE)) return fromFolder(url);
  throw new TypeError(`fetch failed: ${url} is not reachable in this test`);
};
