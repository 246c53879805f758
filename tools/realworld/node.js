// SPDX-License-Identifier: Apache-2.0
// For tools/realworld.py: node node.js WORKERS ROUNDS keeps so many worker threads busy with buffers, compression,
// hashes, JSON and messages, and prints one checksum per worker, the same on each run.
'use strict';
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const crypto = require('crypto');
const zlib = require('zlib');

function work({ seed, rounds }) {
	let state = seed;
	const random = (below) => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) % below;
	const hash = crypto.createHash('sha256');
	const kept = new Array(64).fill(Buffer.alloc(0));
	for (let round = 0; round < rounds; ++round) {
		// Most buffers are small, some large; each lives for a while.
		const size = round % 16 === 0 ? 1 + random(4 << 20) : 1 + random(20000);
		const buffer = Buffer.alloc(size, `${round}-${state}`);
		const slot = random(kept.length);
		hash.update(kept[slot].subarray(0, 4096));
		kept[slot] = buffer;
		if (round % 8 === 0) {
			const packed = zlib.deflateSync(buffer.subarray(0, 100000), { level: 1 + random(9) });
			if (!zlib.inflateSync(packed).equals(buffer.subarray(0, 100000))) throw new Error('inflate(deflate(x)) is not x');
			const tree = JSON.parse(JSON.stringify(Array.from({ length: 500 }, (_, i) => ({ i, text: `${i}`.repeat(9) }))));
			hash.update(JSON.stringify(tree.map((node) => node.text).reverse()));
		}
		if (round % 32 === 0) {
			// Moved to the main thread, which frees it.
			const moved = new Uint8Array(100000 + random(1 << 20)).fill(round & 255);
			parentPort.postMessage({ moved }, [moved.buffer]);
		}
	}
	parentPort.postMessage({ digest: hash.digest('hex') });
}

if (isMainThread) {
	const [workers, rounds] = process.argv.slice(2).map(Number);
	const results = new Array(workers);
	let bytes = 0;
	for (let index = 0; index < workers; ++index) {
		const worker = new Worker(__filename, { workerData: { seed: index + 1, rounds } });
		worker.on('message', ({ moved, digest }) => {
			if (moved) bytes += moved.length;
			else results[index] = digest;
		});
		worker.on('error', (error) => { throw error; });
	}
	process.on('exit', () => console.log(results.join('\n'), bytes));
} else {
	work(workerData);
}
