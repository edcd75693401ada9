// Package repo holds the rules about this repository that its tests check: who
// may import whom, which modules the root may need, that no test waits in real
// time, and that the clients of all tests obey the flag -plain. The rules are
// those of docs/design.md, sections 1 and 7.
package repo

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// Module is the path of the root module.
const Module = "github.com/limpet-go/limpet"

const (
	websocket = "nhooyr.io/websocket"
	backoff   = "github.com/cenkalti/backoff/v4"
	uuid      = "github.com/google/uuid"
)

// Requirements are the modules that the root module may need, itself included.
var Requirements = []string{Module, backoff, uuid, websocket}

// Package is the part of the output of go list -json that the rules use.
type Package struct {
	ImportPath   string
	Name         string
	Dir          string
	Standard     bool
	GoFiles      []string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

// Decode reads the output of go list -json.
func Decode(r io.Reader) ([]Package, error) {
	var all []Package
	for d := json.NewDecoder(r); ; {
		var p Package
		switch err := d.Decode(&p); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		}
		all = append(all, p)
	}
}

// layer says what the packages under a path may import besides the standard library.
// Paths are relative to Module; "x/..." means x and everything below it.
type layer struct {
	under   string
	imports []string // non-test files
	never   []string // test files
}

// layers, in order: the first one that matches a package applies to it. A package
// without a layer, such as a program or an example, may import any package of the
// module.
var layers = []layer{
	{".", []string{"wire", "wire/native", "codec", "cursor", "outbox", "internal/...", backoff, uuid}, nil},
	{"codec", nil, []string{"."}},
	{"wire", nil, []string{"."}},
	{"wire/wiretest", []string{".", "wire", "limpettest", websocket}, nil}, // a client of the dialect, against a model
	{"wire/...", []string{"wire", "wire/internal/..."}, []string{"."}},     // no dialect imports another
	{"server/...", []string{"wire", "wire/native", "server/...", "internal/...", websocket, uuid}, []string{"."}},
	{"limpettest/...", []string{"wire", "wire/native", "server", "limpettest/...", uuid}, []string{"."}},
	{"cursor", []string{"wire", "internal/directory"}, []string{"."}},
	{"cursor/...", []string{"wire", "cursor"}, []string{"."}},
	{"outbox", nil, []string{"."}},
	{"outbox/file", []string{"outbox", "internal/directory", "internal/segment"}, []string{"."}},
	{"outbox/...", []string{"outbox"}, []string{"."}},
	{"internal/directory", nil, []string{"."}},
	{"internal/segment/...", []string{"internal/directory", "internal/segment"}, []string{"."}},
	{"internal/socket", []string{"wire", "internal/fallback", "internal/frame", websocket}, []string{"."}},
	{"internal/fallback", nil, []string{"."}},
	{"internal/assert", nil, []string{"."}},
	{"internal/saver", []string{"wire", "cursor"}, []string{"."}},
	{"internal/keeper", []string{"wire", "outbox", "internal/socket"}, []string{"."}},
	{"internal/guard", []string{"wire", "cursor", "internal/fault", "internal/socket"}, []string{"."}},
	{"internal/sequence", []string{"wire"}, []string{"."}},
	{"internal/commit", []string{"wire", "internal/fifo"}, []string{"."}},
	{"internal/verdict", []string{"wire", "internal/fault", "internal/headers", "internal/socket"}, nil}, // the tests compare with the classes of the root
}

// matches reports whether pattern matches the import path p.
func matches(pattern, p string) bool {
	if pattern == "." {
		return p == Module
	}
	dir, below := strings.CutSuffix(pattern, "/...")
	for _, full := range []string{dir, Module + "/" + dir} {
		if p == full || below && strings.HasPrefix(p, full+"/") {
			return true
		}
	}
	return false
}

func matchesAny(patterns []string, p string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return matches(pattern, p) })
}

// standard reports whether p is a package of the standard library: its first
// element has no dot.
func standard(p string) bool {
	first, _, _ := strings.Cut(p, "/")
	return !strings.Contains(first, ".") || first == "C"
}

// Imports returns the breaches of the import rules among packages. Packages of the
// standard library and of other modules are ignored.
func Imports(packages []Package) (found []string) {
	for _, p := range packages {
		if p.Standard || p.ImportPath != Module && !strings.HasPrefix(p.ImportPath, Module+"/") {
			continue
		}
		if slices.Contains([]string{"util", "utils", "common", "types", "helper", "helpers"}, p.Name) {
			found = append(found, fmt.Sprintf("%s: the name %s does not say what the package is for", p.ImportPath, p.Name))
		}
		i := slices.IndexFunc(layers, func(l layer) bool { return matches(l.under, p.ImportPath) })
		for _, imported := range p.Imports {
			switch {
			case standard(imported):
			case i >= 0 && !matchesAny(layers[i].imports, imported):
				found = append(found, fmt.Sprintf("%s imports %s", p.ImportPath, imported))
			case !matchesAny(Requirements, imported) && !matches(Module+"/...", imported):
				found = append(found, fmt.Sprintf("%s imports %s, which is not on the list", p.ImportPath, imported))
			}
		}
		for _, imported := range slices.Concat(p.TestImports, p.XTestImports) {
			switch {
			case standard(imported):
			case i >= 0 && matchesAny(layers[i].never, imported):
				found = append(found, fmt.Sprintf("a test of %s imports %s", p.ImportPath, imported))
			case !matchesAny(Requirements, imported) && !matches(Module+"/...", imported):
				found = append(found, fmt.Sprintf("a test of %s imports %s, which is not on the list", p.ImportPath, imported))
			}
		}
	}
	return found
}

// Websocket returns the breaches of the rule that exactly one file of
// internal/socket, of the server, of wire/wiretest and of examples/internal/demo imports
// the WebSocket library, and no file of another package does. Tests are exempt. imports lists the imports of one file.
func Websocket(packages []Package, imports func(file string) ([]string, error)) (found []string, err error) {
	for _, p := range packages {
		if !strings.HasPrefix(p.ImportPath+"/", Module+"/") {
			continue
		}
		var files []string
		for _, f := range p.GoFiles {
			list, err := imports(path.Join(p.Dir, f))
			if err != nil {
				return nil, err
			}
			if slices.Contains(list, websocket) {
				files = append(files, f)
			}
		}
		want := 0
		switch p.ImportPath {
		case Module + "/internal/socket", Module + "/server", Module + "/wire/wiretest", Module + "/examples/internal/demo":
			want = 1
		}
		if len(files) != want {
			found = append(found, fmt.Sprintf("%s: %d files import %s, want %d: %v", p.ImportPath, len(files), websocket, want, files))
		}
	}
	return found, nil
}

// Modules returns the differences between the output of go list -m -f {{.Path}} all
// and Requirements.
func Modules(list []string) (found []string) {
	for _, m := range list {
		if !slices.Contains(Requirements, m) {
			found = append(found, m+" is required, directly or not, and is not on the list")
		}
	}
	for _, m := range Requirements {
		if !slices.Contains(list, m) {
			found = append(found, m+" is on the list, but not required")
		}
	}
	return found
}
