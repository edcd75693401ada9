package main

const repo = "./internal/repo"

// ofRepo: imports, modules, sleeping tests, leaks, and this program.
var ofRepo = []mutation{
	{
		name:    "imports: wire needs a module",
		file:    "wire/wire.go",
		search:  "import \"time\"\n",
		replace: "import (\n\t\"time\"\n\n\t_ \"github.com/google/uuid\"\n)\n",
		test:    "-run ^TestImports$ " + repo,
		says:    "limpet/wire imports",
	},
	{
		name:    "imports: the server knows the client",
		file:    "server/errors.go",
		search:  "import (\n",
		replace: "import (\n\t_ \"github.com/limpet-go/limpet\"\n",
		test:    "-run ^TestImports$ " + repo,
		says:    "limpet/server imports",
	},
	{
		name:    "imports: a second file knows the library",
		file:    "internal/socket/proxy.go",
		search:  "import (\n",
		replace: "import (\n\t_ \"nhooyr.io/websocket\"\n",
		test:    "-run ^TestImports$ " + repo,
		says:    "2 files import",
	},
	{
		name:    "modules: one more than is allowed",
		file:    "internal/repo/imports.go",
		search:  "{Module, backoff, uuid, websocket}",
		replace: "{Module, backoff, uuid}",
		test:    "-run ^TestModules$ " + repo,
		says:    "nhooyr.io/websocket is required",
	},
	{
		name:    "sleeps: a test waits in real time",
		file:    "internal/assert/assert_test.go",
		search:  "func TestAssertions(t *testing.T) {\n",
		replace: "func TestAssertions(t *testing.T) {\n\ttime.Sleep(1)\n",
		test:    "-run ^TestNoSleeps$ " + repo,
		says:    "assert_test.go:[0-9]+: time.Sleep",
	},
	{
		name:    "plain: a client of a test takes no notice of the flag",
		file:    "helpers_test.go",
		search:  "limpet.Dial(context.Background(), srv.URL(), options(&opts))",
		replace: "limpet.Dial(context.Background(), srv.URL(), &opts)",
		test:    "-run ^TestClientsObeyPlain$ " + repo,
		says:    "helpers_test.go:[0-9]+: pass the options of Dial",
	},
	{
		name:    "plain: the flag is not read",
		file:    "test/helpers_test.go",
		search:  "o.PlainFrames = o.PlainFrames || *plainFlag\n",
		replace: "_ = *plainFlag\n",
		test:    "-run ^TestPlainFlagIsObeyed$ ./test -plain",
		says:    "PlainFrames is false with -plain=true",
	},
	{
		name:    "leaks: a goroutine left behind is no failure",
		file:    "internal/assert/leak.go",
		search:  "tb.Errorf(\"goroutine left behind:",
		replace: "tb.Logf(\"goroutine left behind:",
		test:    "-run ^TestNoLeaks$ ./internal/assert",
	},
	{
		name:    "mutate: green for red",
		file:    "internal/mutate/run.go",
		search:  "case failed && ran:\n\t\treturn red,",
		replace: "case failed && ran:\n\t\treturn green,",
		test:    "-run ^TestClassify$ ./internal/mutate",
	},
	{
		name:    "mutate: what does not compile is red",
		file:    "internal/mutate/run.go",
		search:  "case unbuiltPackage:\n\t\treturn unbuilt,",
		replace: "case unbuiltPackage:\n\t\treturn red,",
		test:    "-run ^TestClassify$ ./internal/mutate",
	},
	{
		name:    "docs: code that no test runs",
		file:    "docs/your-server.md",
		search:  "\"UNSUB %d %s\"",
		replace: "\"UNSUBSCRIBE %d %s\"",
		test:    "-run ^TestDocsShowTestedCode$ ./internal/repo",
	},
	{
		name:    "docs: the program of a package lacks an import",
		file:    "wire/raw/raw.go",
		search:  "//\t\t\"log/slog\"\n",
		replace: "",
		test:    "-run ^TestDocsProgramsCompile$ " + repo,
		says:    "undefined: slog",
	},
}
