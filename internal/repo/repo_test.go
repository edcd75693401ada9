package repo

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// root is the folder of the module.
const root = "../.."

func goList(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, stderr.Bytes())
	}
	return out
}

func importsOf(file string) ([]string, error) {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, i := range f.Imports {
		list = append(list, strings.Trim(i.Path.Value, `"`))
	}
	return list, nil
}

func TestImports(t *testing.T) {
	packages, err := Decode(bytes.NewReader(goList(t, "-deps", "-json=ImportPath,Name,Dir,Standard,GoFiles,Imports,TestImports,XTestImports", "./...")))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(packages, func(p Package) bool { return p.ImportPath == Module+"/wire" }) {
		t.Fatalf("%d packages, wire is not among them", len(packages))
	}
	for _, f := range Imports(packages) {
		t.Error(f)
	}
	found, err := Websocket(packages, importsOf)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		t.Error(f)
	}
}

func TestModules(t *testing.T) {
	for _, f := range Modules(strings.Fields(string(goList(t, "-m", "-f", "{{.Path}}", "all")))) {
		t.Error(f)
	}
}

// Nested modules are checked too: the rule applies to all tests.
func TestNoSleeps(t *testing.T) {
	fset := token.NewFileSet()
	byDir := map[string][]*ast.File{}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		byDir[filepath.Dir(name)] = append(byDir[filepath.Dir(name)], f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(byDir) < 2 {
		t.Fatalf("test files in %d folders", len(byDir))
	}
	for _, files := range byDir {
		for _, f := range Sleeps(fset, files) {
			t.Error(f)
		}
	}
}

func TestClientsObeyPlain(t *testing.T) {
	for _, dir := range []string{".", "test"} {
		names, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
		if err != nil || len(names) == 0 {
			t.Fatalf("%d test files in %s: %v", len(names), dir, err)
		}
		fset := token.NewFileSet()
		for _, name := range names {
			f, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, found := range FrameLayers(fset, []*ast.File{f}) {
				t.Error(found)
			}
		}
	}
}

func TestFrameLayersHasTeeth(t *testing.T) {
	for _, c := range []struct {
		src  string
		want int
	}{
		{`package limpet_test; func f() { limpet.New(url, options(&limpet.Options{})) }`, 0},
		{`package limpet_test; func f() { limpet.New(url, &limpet.Options{}) }`, 1},
		{`package test; func f() { limpet.Dial(ctx, url, nil); limpet.New(url, o) }`, 2},
		{`package limpet_test; func ExampleNew() { limpet.New(url, nil) }`, 0},
		{`package test; func f() { server.New(nil); feed.New(table) }`, 0},
		{`package limpet; func f() { New(url, nil) }`, 1},
		{`package limpet; func f() { New(url, options(o)); newWindow(o) }`, 0},
	} {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, "x_test.go", c.src, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if found := FrameLayers(fset, []*ast.File{f}); len(found) != c.want {
			t.Errorf("%s: %q, want %d", c.src, found, c.want)
		}
	}
}

func TestImportsHasTeeth(t *testing.T) {
	at := func(dir string) string { return strings.TrimSuffix(Module+"/"+dir, "/") }
	for _, c := range []struct {
		name string
		p    Package
		want int
	}{
		{"root", Package{ImportPath: Module, Imports: []string{"fmt", at("wire"), at("wire/native"), at("internal/socket"), backoff, uuid}}, 0},
		{"root imports the WebSocket library", Package{ImportPath: Module, Imports: []string{websocket}}, 1},
		{"socket", Package{ImportPath: at("internal/socket"), Imports: []string{at("wire"), at("internal/frame"), websocket}}, 0},
		{"socket imports the root", Package{ImportPath: at("internal/socket"), Imports: []string{Module}}, 1},
		{"socket imports a dialect", Package{ImportPath: at("internal/socket"), Imports: []string{at("wire/native")}}, 1},
		{"a socket test imports the root", Package{ImportPath: at("internal/socket"), TestImports: []string{Module}}, 1},
		{"root imports a dialect", Package{ImportPath: Module, Imports: []string{at("wire/stomp")}}, 1},
		{"root imports the server", Package{ImportPath: Module, Imports: []string{at("server")}}, 1},
		{"root imports the kit", Package{ImportPath: Module, Imports: []string{at("limpettest")}}, 1},
		{"a root test imports the kit", Package{ImportPath: Module, XTestImports: []string{at("limpettest"), at("server")}}, 0},
		{"a root test imports a stranger", Package{ImportPath: Module, XTestImports: []string{"example.com/assert"}}, 1},
		{"root imports codec", Package{ImportPath: Module, Imports: []string{at("codec")}}, 0},
		{"codec imports the root", Package{ImportPath: at("codec"), Imports: []string{Module}}, 1},
		{"codec imports wire", Package{ImportPath: at("codec"), Imports: []string{at("wire")}}, 1},
		{"wire imports uuid", Package{ImportPath: at("wire"), Imports: []string{uuid}}, 1},
		{"wire imports a dialect", Package{ImportPath: at("wire"), Imports: []string{at("wire/native")}}, 1},
		{"dialect", Package{ImportPath: at("wire/stomp"), Imports: []string{"bytes", at("wire")}}, 0},
		{"a dialect imports another", Package{ImportPath: at("wire/stomp"), Imports: []string{at("wire/native")}}, 1},
		{"a dialect imports the root", Package{ImportPath: at("wire/stomp"), Imports: []string{Module}}, 1},
		{"a dialect's test imports the root", Package{ImportPath: at("wire/stomp"), TestImports: []string{Module}}, 1},
		{"an outbox", Package{ImportPath: at("outbox/file"), Imports: []string{at("outbox"), at("internal/directory")}, XTestImports: []string{at("outbox/outboxtest")}}, 0},
		{"outbox imports its files", Package{ImportPath: at("outbox"), Imports: []string{at("outbox/file")}}, 1},
		{"an outbox imports the root", Package{ImportPath: at("outbox/file"), Imports: []string{Module}}, 1},
		{"server imports the root", Package{ImportPath: at("server"), Imports: []string{Module}}, 1},
		{"a server test imports the root", Package{ImportPath: at("server"), XTestImports: []string{Module}}, 1},
		{"kit imports the root", Package{ImportPath: at("limpettest"), Imports: []string{Module}}, 1},
		{"a kit test imports the root", Package{ImportPath: at("limpettest"), XTestImports: []string{Module}}, 1},
		{"kit imports the WebSocket library", Package{ImportPath: at("limpettest"), Imports: []string{websocket}}, 1},
		{"kit", Package{ImportPath: at("limpettest"), Imports: []string{at("server"), at("wire"), uuid}}, 0},
		{"an example", Package{ImportPath: at("examples/livefeed"), Imports: []string{Module, at("server"), uuid}}, 0},
		{"an example imports a stranger", Package{ImportPath: at("examples/livefeed"), Imports: []string{"example.com/x"}}, 1},
		{"a name that says nothing", Package{ImportPath: at("internal/util"), Name: "util"}, 1},
		{"another module", Package{ImportPath: "example.com/x", Name: "util", Imports: []string{"example.com/y"}}, 0},
	} {
		if found := Imports([]Package{c.p}); len(found) != c.want {
			t.Errorf("%s: %q, want %d breaches", c.name, found, c.want)
		}
	}
}

func TestWebsocketHasTeeth(t *testing.T) {
	files := map[string][]string{"r/a.go": {websocket}, "r/b.go": {websocket}, "r/c.go": {"fmt"}, "w/a.go": {websocket}}
	imports := func(file string) ([]string, error) {
		list, ok := files[file]
		if !ok {
			return nil, fmt.Errorf("no file %s", file)
		}
		return list, nil
	}
	for _, c := range []struct {
		p    Package
		want int
	}{
		{Package{ImportPath: Module + "/internal/socket", Dir: "r", GoFiles: []string{"a.go", "c.go"}}, 0},
		{Package{ImportPath: Module + "/internal/socket", Dir: "r", GoFiles: []string{"a.go", "b.go"}}, 1},
		{Package{ImportPath: Module, Dir: "r", GoFiles: []string{"c.go"}}, 0},
		{Package{ImportPath: Module, Dir: "r", GoFiles: []string{"a.go", "c.go"}}, 1},
		{Package{ImportPath: Module + "/server", Dir: "r", GoFiles: []string{"c.go"}}, 1},
		{Package{ImportPath: Module + "/wire", Dir: "w", GoFiles: []string{"a.go"}}, 1},
	} {
		if found, err := Websocket([]Package{c.p}, imports); err != nil || len(found) != c.want {
			t.Errorf("%s %v: %q, %v; want %d breaches", c.p.ImportPath, c.p.GoFiles, found, err, c.want)
		}
	}
}

func TestModulesHasTeeth(t *testing.T) {
	if found := Modules(append(slices.Clone(Requirements), "example.com/x")); len(found) != 1 {
		t.Errorf("one module too many: %q", found)
	}
	if found := Modules(Requirements[1:]); len(found) != 1 {
		t.Errorf("one module too few: %q", found)
	}
}

func TestSleepsHasTeeth(t *testing.T) {
	for _, c := range []struct {
		name, src string
		want      int
	}{
		{"plain", `func TestX(t *testing.T) { time.Sleep(1) }`, 1},
		{"bubble", `func TestX(t *testing.T) { synctest.Test(t, func(t *testing.T) { go func() { time.Sleep(1) }() }) }`, 0},
		{"beside a bubble", `func TestX(t *testing.T) { time.Sleep(1); synctest.Test(t, func(t *testing.T) {}) }`, 1},
		{"helper of bubbles", `func wait() { time.Sleep(1) }
func TestX(t *testing.T) { synctest.Test(t, func(t *testing.T) { wait() }) }`, 0},
		{"helper of both", `func wait() { time.Sleep(1) }
func TestX(t *testing.T) { synctest.Test(t, func(t *testing.T) { wait() }); wait() }`, 1},
		{"helper passed on", `func wait() { time.Sleep(1) }
func TestX(t *testing.T) { t.Cleanup(wait) }`, 1},
		{"helper without a caller", `func wait() { time.Sleep(1) }`, 1},
		{"helper of a helper", `func wait() { time.Sleep(1) }
func twice() { wait(); wait() }
func TestX(t *testing.T) { synctest.Test(t, func(t *testing.T) { twice() }) }`, 0},
		{"recursion", `func wait(n int) { time.Sleep(1); wait(n-1) }
func TestX(t *testing.T) { synctest.Test(t, func(t *testing.T) { wait(1) }) }`, 0},
		{"recursion without a caller", `func wait(n int) { time.Sleep(1); wait(n-1) }
func TestX(t *testing.T) { wait(1) }`, 1},
		{"named body", `func body(t *testing.T) { time.Sleep(1) }
func TestX(t *testing.T) { synctest.Test(t, body) }`, 0},
		{"runner", `func run(t *testing.T, f func(t *testing.T)) { synctest.Test(t, f) }
func TestX(t *testing.T) { run(t, func(t *testing.T) { time.Sleep(1) }) }`, 0},
		{"method", `type h struct{}
func (h) wait() { time.Sleep(1) }
func TestX(t *testing.T) { synctest.Test(t, func(t *testing.T) { h{}.wait() }) }`, 0},
		{"method outside", `type h struct{}
func (h) wait() { time.Sleep(1) }
func TestX(t *testing.T) { h{}.wait() }`, 1},
		{"variable", `var nap = func() { time.Sleep(1) }`, 1},
	} {
		fset := token.NewFileSet()
		src := "package x\nimport (\"testing\"; \"testing/synctest\"; \"time\")\n" + c.src
		f, err := parser.ParseFile(fset, "x_test.go", src, parser.SkipObjectResolution)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if found := Sleeps(fset, []*ast.File{f}); len(found) != c.want {
			t.Errorf("%s: %q, want %d", c.name, found, c.want)
		}
	}
	renamed := "package x\nimport clock \"time\"\nfunc f() { clock.Sleep(1) }\n"
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "x_test.go", renamed, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	if found := Sleeps(fset, []*ast.File{f}); len(found) != 1 {
		t.Errorf("renamed import: %q", found)
	}
}

// Code that a document shows is code that is tested: it stands in the file that the line
// before it names, apart from indentation.
func TestDocsShowTestedCode(t *testing.T) {
	names, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range strings.Split(string(text), "<!-- from ")[1:] {
			file, rest, _ := strings.Cut(part, " -->\n```go\n")
			code, _, ended := strings.Cut(rest, "\n```\n")
			source, err := os.ReadFile("../../" + file)
			if err != nil || !ended {
				t.Errorf("%s: no code from %s: %v", name, file, err)
				continue
			}
			if !strings.Contains(withoutIndent(string(source)), withoutIndent(code)) {
				t.Errorf("%s shows code that is not in %s", name, file)
			}
			shown++
		}
	}
	if shown < 4 {
		t.Errorf("%d pieces of code, want at least 4", shown)
	}
}

func withoutIndent(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "\n")
}
