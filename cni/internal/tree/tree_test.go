package tree

import (
	"encoding/json"
	"strings"
	"testing"
)

// FuzzTree holds the package against encoding/json: the same texts are valid, and they mean the same.
func FuzzTree(f *testing.F) {
	for _, s := range []string{`{"a":[1,-0.5e+3,true,null,"x"],"a":{}}`, `"\ud83d\ude00\ud83d x\u00e9\/"`, "\"\xff\"", `[01]`, `{"a":1,}`, ` [ ] `,
		`-`, `1.`, `1e`, `"\x"`, "\"\n\"", `nul`, `{}{}`, `"\ud800\u0041"`, `"\ud800\ud800\udc00"`, strings.Repeat("[", 300)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := Parse(data)
		if err == nil != json.Valid(data) {
			if err != nil && strings.Contains(err.Error(), "nesting") {
				return
			}
			t.Fatalf("%q: %v, encoding/json says valid %v", data, err, json.Valid(data))
		}
		if err != nil {
			return
		}
		var w Writer
		write(&w, v)
		var want, got any
		if json.Unmarshal(data, &want) != nil {
			return // a number beyond float64
		}
		if err := json.Unmarshal(w.Bytes(), &got); err != nil {
			t.Fatalf("%q was written as %q: %v", data, w.Bytes(), err)
		}
		a, _ := json.Marshal(want)
		b, _ := json.Marshal(got)
		if string(a) != string(b) {
			t.Fatalf("%s, want %s", b, a)
		}
	})
}

// write puts a tree together again from its parts, not from its raw text.
func write(w *Writer, v Value) {
	switch v.Kind {
	case String:
		w.Text(v.Text)
	case Array:
		w.Array(func() {
			for _, i := range v.Items {
				write(w, i)
			}
		})
	case Object:
		w.Object(func() {
			for i, n := range v.Names {
				w.Name(n)
				write(w, v.Parts[i])
			}
		})
	default:
		w.Raw(v.Raw)
	}
}

func TestGetTakesTheLast(t *testing.T) {
	v, err := Parse([]byte(`{"a":1,"b":2,"a":3}`))
	if err != nil || string(v.Get("a").Raw) != "3" || v.Get("c").Kind != Absent {
		t.Error(v, err)
	}
	v, err = Parse([]byte(`{"HostPort":1,"hostPort":2,"HOSTPORT":3,"Protocol":"tcp"}`))
	if err != nil || string(v.Get("hostPort").Raw) != "2" || string(v.Get("hostport").Raw) != "3" || v.Get("protocol").Text != "tcp" {
		t.Error(v, err)
	}
}
