// Package names finds unexported names of a package that mean more than one sort of thing. Such a
// name cannot be searched for, by a reader or by a tool.
package names

import (
	"go/ast"
	"maps"
	"slices"
	"strings"
)

// Sort is a set of sorts of things.
type Sort uint8

const (
	Method Sort = 1 << iota
	Function
	Type
	Field
)

func (s Sort) String() string {
	var list []string
	for i, name := range []string{"method", "function", "type", "field"} {
		if s&(1<<i) != 0 {
			list = append(list, name)
		}
	}
	return strings.Join(list, ", ")
}

// Ambiguous reports whether s holds more than one sort.
func (s Sort) Ambiguous() bool { return s&(s-1) != 0 }

// Names says for each unexported name which sorts of things have it.
type Names map[string]Sort

// Of collects the methods, functions, types and fields that are declared in files, also inside
// functions. An embedded field has no name of its own.
func Of(files []*ast.File) Names {
	all := Names{}
	add := func(sort Sort, names ...*ast.Ident) {
		for _, n := range names {
			if !n.IsExported() && n.Name != "_" {
				all[n.Name] |= sort
			}
		}
	}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				sort := Function
				if n.Recv != nil {
					sort = Method
				}
				add(sort, n.Name)
			case *ast.TypeSpec:
				add(Type, n.Name)
			case *ast.StructType:
				for _, f := range n.Fields.List {
					add(Field, f.Names...)
				}
			case *ast.InterfaceType:
				for _, m := range n.Methods.List {
					add(Method, m.Names...)
				}
			}
			return true
		})
	}
	return all
}

// Ambiguous returns the names of more than one sort, sorted.
func (n Names) Ambiguous() (list []string) {
	for _, name := range slices.Sorted(maps.Keys(n)) {
		if n[name].Ambiguous() {
			list = append(list, name)
		}
	}
	return list
}

// Percent is the share of the ambiguous names.
func (n Names) Percent() float64 {
	return 100 * float64(len(n.Ambiguous())) / float64(max(1, len(n)))
}

// Letters is the mean length of a name.
func (n Names) Letters() float64 {
	sum := 0
	for name := range n {
		sum += len(name)
	}
	return float64(sum) / float64(max(1, len(n)))
}
