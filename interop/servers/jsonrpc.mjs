// Ganache, an Ethereum node for tests: it makes a block when it is asked to.
import ganache from "ganache";

const server = ganache.server({
	logging: { quiet: true },
	miner: { instamine: "strict" },
	wallet: { totalAccounts: 1, deterministic: true },
});
await server.listen(Number(process.argv[2] ?? 0), "127.0.0.1");
console.log("listening " + server.address().port);
