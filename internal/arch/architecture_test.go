package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const architecture = "docs/architecture.md"

// document reads a file of the repository.
func document(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("../..", path))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// section is the text below a heading of the second level, up to the next one.
func section(t *testing.T, text, heading string) string {
	t.Helper()
	_, after, ok := strings.Cut(text, "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("there is no section %q", heading)
	}
	body, _, _ := strings.Cut(after, "\n## ")
	return body
}

var backticked = regexp.MustCompile("`([^`]+)`")

func TestArchitecture_EveryPackage_IsListed(t *testing.T) {
	text := document(t, architecture)
	for _, p := range packages(t) {
		dir := strings.TrimPrefix(p.ImportPath, module) + "/"
		if !strings.Contains(text, "`"+dir+"`") {
			t.Errorf("%s does not list `%s`", architecture, dir)
		}
	}
}

func TestArchitecture_ListedDirectory_Exists(t *testing.T) {
	for _, m := range backticked.FindAllStringSubmatch(document(t, architecture), -1) {
		dir := m[1]
		if !strings.HasSuffix(dir, "/") || strings.HasPrefix(dir, "/") || strings.ContainsAny(dir, " *<:") {
			continue
		}
		if info, err := os.Stat(filepath.Join("../..", dir)); err != nil || !info.IsDir() {
			t.Errorf("%s lists `%s`, which is not a directory of this repository", architecture, dir)
		}
	}
}

// declarations are the functions, methods ("Type.Method"), types, constants and variables that a file declares.
func declarations(t *testing.T, path string) map[string]bool {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join("../..", path), nil, parser.SkipObjectResolution)
	if err != nil {
		t.Errorf("%v", err)
		return nil
	}
	out := map[string]bool{}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			name := d.Name.Name
			if d.Recv != nil {
				name = receiver(d.Recv.List[0].Type) + "." + name
			}
			out[name] = true
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					out[s.Name.Name] = true
				case *ast.ValueSpec:
					for _, n := range s.Names {
						out[n.Name] = true
					}
				}
			}
		}
	}
	return out
}

// receiver is the type of a method's receiver, without pointer and type parameters.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

// The index by question: the last column of a row names a file, and then what it declares.
func TestArchitecture_IndexByQuestion_NamesExistingCode(t *testing.T) {
	const atLeast = 20
	rows := 0
	for line := range strings.Lines(section(t, document(t, architecture), "Where to find what")) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(line, "|") || len(cells) < 2 || strings.HasPrefix(strings.TrimSpace(cells[0]), "---") {
			continue
		}
		last := cells[len(cells)-1]
		var declared map[string]bool
		file, names := "", 0
		for _, m := range backticked.FindAllStringSubmatch(last, -1) {
			if strings.HasSuffix(m[1], ".go") {
				file, declared = m[1], declarations(t, m[1])
				continue
			}
			names++
			if !declared[m[1]] {
				t.Errorf("%q: %s does not declare %s", strings.TrimSpace(cells[0]), file, m[1])
			}
		}
		if file == "" && names == 0 && rows == 0 {
			continue // the heading of the table
		}
		rows++
		if file == "" || names == 0 {
			t.Errorf("%q: expected a file and a function in the last column, found %q", strings.TrimSpace(cells[0]),
				strings.TrimSpace(last))
		}
	}
	if rows < atLeast {
		t.Errorf("the index has %d rows, expected at least %d", rows, atLeast)
	}
}
