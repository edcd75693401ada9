package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strings"
)

// breakage is one way to break a statement.
type breakage struct {
	file     string // from the root of the tree
	line     int
	function string
	what     string // "deleted `w.pending--`"
	from, to int    // the bytes of the file that become text
	text     string
}

// key identifies b when lines have moved.
func (b breakage) key() string { return b.file + " " + b.function + ": " + b.what }

func (b breakage) String() string {
	return fmt.Sprintf("%s:%d %s: %s", b.file, b.line, b.function, b.what)
}

// texts are functions that only make text for a reader.
var texts = regexp.MustCompile(`^(String|Error|GoString|LogValue|Debug|Info|Warn|Log|LogAttrs)$`)

// breakagesIn returns, for each statement of a file, the ways to break it. Some of
// them do not compile.
func breakagesIn(file string, source []byte) ([][]breakage, error) {
	set := token.NewFileSet()
	tree, err := parser.ParseFile(set, file, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var statements [][]breakage
	for _, declaration := range tree.Decls {
		f, ok := declaration.(*ast.FuncDecl)
		if !ok || f.Body == nil || texts.MatchString(f.Name.Name) {
			continue
		}
		ast.Inspect(f.Body, func(n ast.Node) bool {
			s, ok := n.(ast.Stmt)
			if !ok || n == f.Body {
				return true
			}
			if isText(s) {
				return false
			}
			b := breaker{set: set, source: source, file: file, function: f.Name.Name}
			b.statement(s)
			if len(b.ways) > 0 {
				statements = append(statements, b.ways)
			}
			return true
		})
	}
	return statements, nil
}

// isText reports whether s only makes text for a reader.
func isText(s ast.Stmt) bool {
	if e, ok := s.(*ast.ExprStmt); ok {
		if call, ok := e.X.(*ast.CallExpr); ok {
			f, ok := call.Fun.(*ast.SelectorExpr)
			return ok && texts.MatchString(f.Sel.Name)
		}
	}
	return false
}

// breaker collects the ways to break one statement.
type breaker struct {
	set            *token.FileSet
	source         []byte
	file, function string
	ways           []breakage
}

// statement collects the ways to break s, without the statements inside it.
func (b *breaker) statement(s ast.Stmt) {
	switch s := s.(type) {
	case *ast.BlockStmt, *ast.EmptyStmt, *ast.LabeledStmt, *ast.DeclStmt:
		return
	case *ast.IfStmt:
		b.negate(s.Cond)
		if s.Else == nil {
			b.remove(s)
		}
	case *ast.ForStmt:
		b.negate(s.Cond)
	case *ast.CaseClause:
		for _, e := range s.List {
			b.negate(e)
		}
		b.remove(s)
	case *ast.SwitchStmt, *ast.TypeSwitchStmt, *ast.SelectStmt, *ast.CommClause, *ast.RangeStmt:
	default:
		b.remove(s)
	}
	switch s := s.(type) {
	case *ast.CaseClause, *ast.CommClause:
	case *ast.ReturnStmt: // is a return already
	default:
		b.change(s.Pos(), s.Pos(), "return; ", "return before "+b.quote(s))
	}
	ast.Inspect(s, func(n ast.Node) bool {
		if _, other := n.(ast.Stmt); other && n != s {
			return false
		}
		if e, ok := n.(ast.Expr); ok {
			b.expression(e)
		}
		return true
	})
}

// swaps has, for an operator, one that is wrong in its place.
var swaps = map[token.Token]string{
	token.LSS: "<=", token.LEQ: "<", token.GTR: ">=", token.GEQ: ">", token.EQL: "!=", token.NEQ: "==",
	token.LAND: "||", token.LOR: "&&", token.ADD: "-", token.SUB: "+", token.MUL: "/", token.QUO: "*",
}

func (b *breaker) expression(e ast.Expr) {
	switch e := e.(type) {
	case *ast.BinaryExpr:
		if wrong := swaps[e.Op]; wrong != "" {
			b.change(e.OpPos, e.OpPos+token.Pos(len(e.Op.String())), wrong, b.quote(e)+" with "+wrong)
		}
		if e.Op == token.LAND || e.Op == token.LOR {
			b.change(e.Pos(), e.End(), b.text(e.X), b.quote(e)+" without "+b.quote(e.Y))
			b.change(e.Pos(), e.End(), b.text(e.Y), b.quote(e)+" without "+b.quote(e.X))
		}
	case *ast.BasicLit:
		if e.Kind == token.INT {
			other := "0"
			if e.Value == "0" {
				other = "1"
			}
			b.change(e.Pos(), e.End(), other, e.Value+" became "+other)
		}
	case *ast.Ident:
		if other := map[string]string{"true": "false", "false": "true"}[e.Name]; other != "" {
			b.change(e.Pos(), e.End(), other, e.Name+" became "+other)
		}
	}
}

func (b *breaker) remove(n ast.Node) { b.change(n.Pos(), n.End(), "", "without "+b.quote(n)) }

// negate negates a condition. Of the case of a switch with a value, the result does
// not compile.
func (b *breaker) negate(condition ast.Expr) {
	if condition != nil {
		b.change(condition.Pos(), condition.End(), "!("+b.text(condition)+")", "not "+b.quote(condition))
	}
}

func (b *breaker) change(from, to token.Pos, text, what string) {
	at := b.set.Position(from)
	b.ways = append(b.ways, breakage{
		file: b.file, line: at.Line, function: b.function, what: what,
		from: at.Offset, to: b.set.Position(to).Offset, text: text,
	})
}

// text is the source of n.
func (b *breaker) text(n ast.Node) string {
	return string(b.source[b.set.Position(n.Pos()).Offset:b.set.Position(n.End()).Offset])
}

// quote is the source of n in one short line.
func (b *breaker) quote(n ast.Node) string {
	line := []rune(strings.Join(strings.Fields(b.text(n)), " "))
	if len(line) > 70 {
		line = append(line[:70], '…')
	}
	return "`" + string(line) + "`"
}
