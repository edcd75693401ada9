package repo

import (
	"fmt"
	"go/ast"
	"go/token"
	"slices"
	"strconv"
)

// Sleeps returns the calls of time.Sleep in the test files of one package that may
// run outside a synctest bubble. Inside means: in a function literal that is passed
// to synctest.Test, or to a function of these files that calls synctest.Test; or in
// a function that is only called from inside. Functions and methods are
// distinguished by name alone.
func Sleeps(fset *token.FileSet, files []*ast.File) (found []string) {
	s := &sleeps{runners: map[string]bool{}, calls: map[string][]place{}}
	for _, f := range files {
		s.packages(f)
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil && s.callsBubble(fn.Body) {
				s.runners[fn.Name.Name] = true
			}
		}
	}
	for _, f := range files {
		s.packages(f)
		for _, d := range f.Decls {
			in := ""
			if fn, ok := d.(*ast.FuncDecl); ok {
				in = fn.Name.Name
			}
			s.walk(d, place{in: in})
		}
	}
	for _, p := range s.sleeps {
		if !s.inside(p, nil) {
			at := fset.Position(p.pos)
			found = append(found, fmt.Sprintf("%s:%d: time.Sleep outside a synctest bubble", at.Filename, at.Line))
		}
	}
	return found
}

// place is where a call is: in a function, and possibly in the literal of a bubble.
type place struct {
	in     string
	bubble bool
	pos    token.Pos
}

type sleeps struct {
	time, synctest string // the names of the packages in this file
	runners        map[string]bool
	calls          map[string][]place
	sleeps         []place
}

// packages sets the names under which f imports time and synctest.
func (s *sleeps) packages(f *ast.File) {
	s.time, s.synctest = "", ""
	for _, i := range f.Imports {
		p, _ := strconv.Unquote(i.Path.Value) // the parser has checked it
		name := ""
		if i.Name != nil {
			name = i.Name.Name
		}
		switch p {
		case "time":
			s.time = or(name, "time")
		case "testing/synctest":
			s.synctest = or(name, "synctest")
		}
	}
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (s *sleeps) isBubble(call *ast.CallExpr) bool {
	return s.synctest != "" && isSelector(call.Fun, s.synctest, "Test")
}

func isSelector(e ast.Expr, pkg, name string) bool {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != name {
		return false
	}
	x, ok := sel.X.(*ast.Ident)
	return ok && x.Name == pkg
}

func (s *sleeps) callsBubble(n ast.Node) (yes bool) {
	ast.Inspect(n, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && s.isBubble(call) {
			yes = true
		}
		return !yes
	})
	return yes
}

// walk records the sleeps and calls below n, which is at p. A function that is named
// without being called may be called from anywhere, so that counts as a call.
func (s *sleeps) walk(n ast.Node, p place) {
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			runs := s.isBubble(n) || s.runners[called(n.Fun)]
			s.walk(n.Fun, p)
			for _, a := range n.Args {
				arg := p
				if _, literal := a.(*ast.FuncLit); runs && (literal || s.isBubble(n)) {
					arg.bubble = true
				}
				s.walk(a, arg)
			}
			return false
		case *ast.SelectorExpr:
			if s.time != "" && isSelector(n, s.time, "Sleep") {
				p.pos = n.Pos()
				s.sleeps = append(s.sleeps, p)
				return false
			}
			s.calls[n.Sel.Name] = append(s.calls[n.Sel.Name], p)
		case *ast.FuncDecl:
			s.walk(n.Body, p)
			return false
		case *ast.Ident:
			s.calls[n.Name] = append(s.calls[n.Name], p)
		}
		return true
	})
}

// called returns the name of the function that e names.
func called(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

// inside reports whether p is in a bubble, or in a function that is only called from
// inside. path holds the functions that are being examined.
func (s *sleeps) inside(p place, path []string) bool {
	if p.bubble {
		return true
	}
	if p.in == "" || slices.Contains(path, p.in) {
		return p.in != "" // a recursive call adds no other caller
	}
	calls := s.calls[p.in]
	if len(calls) == 0 {
		return false
	}
	path = append(slices.Clone(path), p.in)
	return !slices.ContainsFunc(calls, func(c place) bool { return !s.inside(c, path) })
}
