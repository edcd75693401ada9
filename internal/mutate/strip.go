package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// tests are the test files of a package, taken apart. A guard is compiled with the declarations
// that it needs and no others: the scenario tests take longer to compile than to run.
type tests struct {
	files   []*testFile
	named   map[string][]*declaration // by name; methods by the name of their type
	effects []*declaration            // TestMain, init and variables that are for their effect
}

type testFile struct {
	path    string
	head    string // up to the imports
	imports []*ast.ImportSpec
	all     []*declaration
}

// declaration is a function, or a group of types, variables or constants.
type declaration struct {
	text string // with a line directive
	test string // the name of a test function
	uses map[string]bool
	self bool // it starts the program that it is in, whose other tests it may want
}

// readTests reads the test files in dir.
func readTests(dir string) (*tests, error) {
	t := &tests{named: map[string][]*declaration{}}
	paths, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		source, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if err := t.read(path, string(source)); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (t *tests) read(path, source string) error {
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, path, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	at := func(p token.Pos) int { return set.Position(p).Offset }
	file := &testFile{path: path, head: source[:at(f.Name.End())], imports: f.Imports}
	t.files = append(t.files, file)
	for _, d := range f.Decls {
		from := d.Pos()
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Doc != nil {
				from = d.Doc.Pos()
			}
		case *ast.GenDecl:
			if d.Tok == token.IMPORT {
				continue
			}
			if d.Doc != nil {
				from = d.Doc.Pos()
			}
		}
		unit := &declaration{uses: map[string]bool{}}
		unit.text = fmt.Sprintf("\n//line %s:%d\n%s\n", path, set.Position(from).Line, source[at(from):at(d.End())])
		ast.Inspect(d, unit.note)
		t.name(unit, d)
		file.all = append(file.all, unit)
	}
	return nil
}

// note adds the names in n.
func (d *declaration) note(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.Ident:
		d.uses[n.Name] = true
	case *ast.SelectorExpr:
		if x, ok := n.X.(*ast.Ident); ok && x.Name == "os" && (n.Sel.Name == "Executable" || n.Sel.Name == "Args") {
			d.self = true
		}
	}
	return true
}

// name makes unit, which is d, known by its names.
func (t *tests) name(unit *declaration, d ast.Decl) {
	add := func(name string) { t.named[name] = append(t.named[name], unit) }
	switch d := d.(type) {
	case *ast.FuncDecl:
		name := d.Name.Name
		switch {
		case d.Recv != nil:
			add(receiver(d.Recv.List[0].Type))
			return
		case name == "init", name == "TestMain":
			t.effects = append(t.effects, unit)
			return
		case strings.HasPrefix(name, "Test"), strings.HasPrefix(name, "Fuzz"), strings.HasPrefix(name, "Example"):
			unit.test = name
		}
		add(name)
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				add(s.Name.Name)
			case *ast.ValueSpec:
				for _, n := range s.Names {
					if add(n.Name); n.Name == "_" {
						t.effects = append(t.effects, unit)
					}
				}
			}
		}
	}
}

// receiver returns the name of the type of a method.
func receiver(t ast.Expr) string {
	switch t := t.(type) {
	case *ast.StarExpr:
		return receiver(t.X)
	case *ast.IndexExpr:
		return receiver(t.X)
	case *ast.IndexListExpr:
		return receiver(t.X)
	case *ast.Ident:
		return t.Name
	}
	return ""
}

// needed returns the declarations that the tests which match run need; nil if they may need all.
func (t *tests) needed(run string) (map[*declaration]bool, error) {
	run, _, _ = strings.Cut(run, "/") // what follows are names of subtests
	re, err := regexp.Compile(run)
	if err != nil {
		return nil, err
	}
	needed := map[*declaration]bool{}
	todo := slices.Clone(t.effects)
	for _, f := range t.files {
		for _, d := range f.all {
			if d.test != "" && re.MatchString(d.test) {
				todo = append(todo, d)
			}
		}
	}
	for len(todo) > 0 {
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if needed[d] {
			continue
		}
		if needed[d] = true; d.self {
			return nil, nil
		}
		for name := range d.uses {
			todo = append(todo, t.named[name]...)
		}
	}
	return needed, nil
}

// strip writes the files of t with what the tests that match run need into the folder to, and the
// file for go's -overlay that puts them in the place of the others. It returns the name of that;
// "" if all is needed.
func (t *tests) strip(run, to string) (string, error) {
	needed, err := t.needed(run)
	if needed == nil || err != nil {
		return "", err
	}
	replace := map[string]string{}
	for i, f := range t.files {
		path, err := filepath.Abs(f.path)
		if err != nil {
			return "", err
		}
		text := f.with(needed)
		if replace[path] = ""; text == "" { // as if it were not there
			continue
		}
		replace[path] = filepath.Join(to, strconv.Itoa(i)+"_test.go")
		if err := os.WriteFile(replace[path], []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	name := filepath.Join(to, "overlay.json")
	return name, os.WriteFile(name, data, 0o644)
}

// with returns the file with the declarations that are needed; "" if it has none.
func (f *testFile) with(needed map[*declaration]bool) string {
	uses := map[string]bool{}
	var body strings.Builder
	for _, d := range f.all {
		if needed[d] {
			body.WriteString(d.text)
			for name := range d.uses {
				uses[name] = true
			}
		}
	}
	if body.Len() == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString(f.head + "\n")
	for _, i := range f.imports {
		if name := importName(i); name == "_" || name == "." || uses[name] {
			b.WriteString("import ")
			if i.Name != nil {
				b.WriteString(i.Name.Name + " ")
			}
			b.WriteString(i.Path.Value + "\n")
		}
	}
	return b.String() + body.String()
}

var versionSuffix = regexp.MustCompile(`/v[0-9]+$`)

// importName guesses the name of a package. If that is wrong the guard does not compile, and is
// compiled with everything.
func importName(i *ast.ImportSpec) string {
	if i.Name != nil {
		return i.Name.Name
	}
	path, _ := strconv.Unquote(i.Path.Value)
	return filepath.Base(versionSuffix.ReplaceAllString(path, ""))
}
