package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/limpet-go/limpet/internal/tools/names"
)

const (
	maxFunction = 60  // lines
	maxFile     = 500 // lines
)

// sources parses the Go files of a tree that are not tests, by their path. Folders that begin with
// a dot and testdata are left out.
func sources(fsys fs.FS) (fset *token.FileSet, files map[string]*ast.File, err error) {
	fset, files = token.NewFileSet(), map[string]*ast.File{}
	err = fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		base := path.Base(name)
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (base[0] == '.' || base == "testdata"):
			return fs.SkipDir
		case d.IsDir() || path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		files[name], err = parser.ParseFile(fset, name, text, parser.SkipObjectResolution)
		return err
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("no Go file found")
	}
	return fset, files, err
}

// printNames also prints how many of the names are methods and something else, which is the worst
// kind: a call and a value look alike.
func printNames(out io.Writer, dir string) error {
	_, files, err := sources(os.DirFS(dir))
	if err != nil {
		return err
	}
	var root []*ast.File
	for name, f := range files {
		if path.Dir(name) == "." {
			root = append(root, f)
		}
	}
	all := names.Of(root)
	methods := 0
	for _, name := range all.Ambiguous() {
		fmt.Fprintf(out, "%-16s %v\n", name, all[name])
		if s := all[name]; s&names.Method != 0 && s&(names.Type|names.Field) != 0 {
			methods++
		}
	}
	fmt.Fprintf(out, "%d unexported names, %d of two sorts (%.1f %%); %d are a method and a field or type (%.1f %%); %.1f letters on average\n",
		len(all), len(all.Ambiguous()), all.Percent(), methods, 100*float64(methods)/float64(max(1, len(all))), all.Letters())
	return nil
}

func printSizes(out io.Writer, dir string) error {
	fset, files, err := sources(os.DirFS(dir))
	if err != nil {
		return err
	}
	functions, long, longFunctions := 0, 0, 0
	for _, name := range sorted(files) {
		if n := fset.File(files[name].FileStart).LineCount(); n > maxFile {
			long++
			fmt.Fprintf(out, "%4d lines  %s\n", n, name)
		}
		for _, d := range files[name].Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			functions++
			from, to := fset.Position(f.Pos()), fset.Position(f.End())
			if n := to.Line - from.Line + 1; n > maxFunction {
				longFunctions++
				fmt.Fprintf(out, "%4d lines  %v %s\n", n, from, f.Name)
			}
		}
	}
	fmt.Fprintf(out, "%d of %d functions over %d lines, %d of %d files over %d\n", longFunctions, functions, maxFunction, long, len(files), maxFile)
	return nil
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
