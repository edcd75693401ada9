package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
)

// checkCompiles reports the entries whose replacement does not compile: they prove nothing. It
// checks types only, which takes milliseconds for an entry. Test files and what is not Go are
// not checked.
func checkCompiles(root string, table []mutation) error {
	byDir := map[string][]mutation{}
	for _, m := range table {
		if strings.HasSuffix(m.file, ".go") && !strings.HasSuffix(m.file, "_test.go") {
			dir := filepath.Dir(filepath.FromSlash(m.file))
			byDir[dir] = append(byDir[dir], m)
		}
	}
	exports, err := exportData(root, byDir)
	if err != nil {
		return err
	}
	var mu sync.Mutex // guards wrong
	var wrong []error
	slots := make(chan struct{}, runtime.NumCPU())
	var all sync.WaitGroup
	for dir, entries := range byDir {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			err := checkPackage(filepath.Join(root, dir), entries, exports)
			mu.Lock()
			defer mu.Unlock()
			wrong = append(wrong, err)
		})
	}
	all.Wait()
	return errors.Join(wrong...)
}

// exportData returns the files with the export data of all packages that the packages in dirs
// import.
func exportData(root string, dirs map[string][]mutation) (map[string]string, error) {
	byModule := map[string][]string{}
	for dir := range dirs {
		module := filepath.Join(root, dir)
		for module != root && !exists(filepath.Join(module, "go.mod")) {
			module = filepath.Dir(module)
		}
		byModule[module] = append(byModule[module], filepath.Join(root, dir))
	}
	exports := map[string]string{}
	for module, packages := range byModule {
		args := []string{"list", "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}"}
		for _, p := range packages {
			relative, err := filepath.Rel(module, p)
			if err != nil {
				return nil, err
			}
			args = append(args, "./"+filepath.ToSlash(relative))
		}
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Env = module, append(os.Environ(), "GOWORK=off")
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("go list in %s: %w", module, err)
		}
		for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
			if name, file, _ := strings.Cut(lines.Text(), " "); file != "" {
				exports[name] = file
			}
		}
	}
	return exports, nil
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// checkPackage checks the entries for the package in dir.
func checkPackage(dir string, entries []mutation, exports map[string]string) error {
	pkg, err := build.ImportDir(dir, 0)
	if err != nil {
		return err
	}
	fset := token.NewFileSet()
	files := map[string]*ast.File{}
	for _, name := range pkg.GoFiles {
		if files[name], err = parser.ParseFile(fset, filepath.Join(dir, name), nil, parser.SkipObjectResolution); err != nil {
			return err
		}
	}
	imports := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	check := func(name string, broken *ast.File) error {
		var list []*ast.File
		for n, f := range files {
			if n == name {
				f = broken
			}
			list = append(list, f)
		}
		_, err := (&types.Config{Importer: imports}).Check(pkg.Name, fset, list, nil)
		return err
	}
	if err := check("", nil); err != nil {
		return fmt.Errorf("%s does not compile without a mutation: %w", dir, err)
	}
	var wrong []error
	for _, m := range entries {
		name := filepath.Base(m.file)
		if files[name] == nil {
			continue // for another system
		}
		source, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		broken, err := parser.ParseFile(fset, name, strings.Replace(string(source), m.search, m.replace, 1), parser.SkipObjectResolution)
		if err == nil {
			err = check(name, broken)
		}
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s: does not compile: %w", m.name, err))
		}
	}
	return errors.Join(wrong...)
}
