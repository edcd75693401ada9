package repo

import (
	"fmt"
	"go/ast"
	"go/token"
	"strings"
)

// FrameLayers returns the calls of New and Dial, of the root package, in the test
// files of one package whose options are not a call of the helper options. Only
// that helper reads the flag -plain: a client made without it would run on
// limpet's own frames while the test claims the library's. Examples are exempt:
// readers copy them.
func FrameLayers(fset *token.FileSet, files []*ast.File) (found []string) {
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if f, ok := n.(*ast.FuncDecl); ok && strings.HasPrefix(f.Name.Name, "Example") {
				return false
			}
			call, ok := n.(*ast.CallExpr)
			if !ok || !makesClient(f, call.Fun) || len(call.Args) == 0 {
				return true
			}
			if last, ok := call.Args[len(call.Args)-1].(*ast.CallExpr); !ok || called(last.Fun) != "options" {
				at := fset.Position(call.Pos())
				found = append(found, fmt.Sprintf("%s:%d: pass the options of %s through options()", at.Filename, at.Line, called(call.Fun)))
			}
			return true
		})
	}
	return found
}

// makesClient reports whether fun is New or Dial of the root package, seen from f.
func makesClient(f *ast.File, fun ast.Expr) bool {
	if f.Name.Name == "limpet" {
		id, ok := fun.(*ast.Ident)
		return ok && (id.Name == "New" || id.Name == "Dial")
	}
	return isSelector(fun, "limpet", "New") || isSelector(fun, "limpet", "Dial")
}
