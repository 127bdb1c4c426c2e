// Package tree reads and writes JSON for a process that lives three milliseconds.
//
// encoding/json builds an encoder or decoder for every type at its first use, which for the plugin is also the last:
// measured in turns, an ADD takes 2.2 ms of CPU time without it and 2.3 to 2.5 ms with it. This package parses into a tree of values, each with its
// raw text, so that parts which are only passed on stay as they came. It is as strict as encoding/json, which the
// fuzz test holds against it. No goroutine, no state.
package tree

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Kind tells what a Value is.
type Kind uint8

// The kinds of JSON values. The zero Value is Absent.
const (
	Absent Kind = iota
	Null
	Bool
	Number
	String
	Array
	Object
)

func (k Kind) String() string {
	return [...]string{"nothing", "null", "a boolean", "a number", "a string", "a list", "an object"}[k]
}

// Value is one JSON value.
type Value struct {
	Kind  Kind
	Raw   []byte  // as it stood in the input; shared with it
	Text  string  // of a String, unescaped
	Items []Value // of an Array
	Names []string
	Parts []Value // of an Object, beside Names
}

// Get returns an object's field; of several with one name the last. Without it, it is Absent. A name in another case
// counts where the exact one is missing, as for encoding/json: containerd writes HostPort for the convention's hostPort.
func (v Value) Get(name string) Value {
	other := -1
	for i := len(v.Names) - 1; i >= 0; i-- {
		if v.Names[i] == name {
			return v.Parts[i]
		}
		if other < 0 && strings.EqualFold(v.Names[i], name) {
			other = i
		}
	}
	if other >= 0 {
		return v.Parts[other]
	}
	return Value{}
}

// Parse reads exactly one value.
func Parse(data []byte) (Value, error) {
	p := parser{data: data}
	v := p.value(0)
	p.space()
	if p.err == nil && p.at < len(p.data) {
		p.fail("the end")
	}
	return v, p.err
}

// maxDepth bounds nesting; no CNI configuration comes near.
const maxDepth = 200

type parser struct {
	data []byte
	at   int
	err  error
}

func (p *parser) fail(want string) {
	if p.err == nil && p.at < len(p.data) {
		p.err = fmt.Errorf("JSON: found %q at byte %d, expected %s", p.data[p.at], p.at, want)
	} else if p.err == nil {
		p.err = fmt.Errorf("JSON: ends at byte %d, expected %s", p.at, want)
	}
}

func (p *parser) space() {
	for p.at < len(p.data) && (p.data[p.at] == ' ' || p.data[p.at] == '\t' || p.data[p.at] == '\n' || p.data[p.at] == '\r') {
		p.at++
	}
}

// peek is the next byte, 0 at the end (which no rule accepts).
func (p *parser) peek() byte {
	if p.at < len(p.data) {
		return p.data[p.at]
	}
	return 0
}

// take skips one byte if it is the wanted one.
func (p *parser) take(c byte) bool {
	if p.peek() != c || p.at >= len(p.data) {
		return false
	}
	p.at++
	return true
}

func (p *parser) value(depth int) (v Value) {
	p.space()
	start := p.at
	switch c := p.peek(); {
	case depth > maxDepth:
		p.fail("less nesting")
	case c == '{':
		v = p.object(depth)
	case c == '[':
		v = p.array(depth)
	case c == '"':
		v = Value{Kind: String, Text: p.text()}
	case c == '-' || (c >= '0' && c <= '9'):
		v = Value{Kind: Number}
		p.number()
	default:
		v = p.word()
	}
	if p.err != nil {
		return Value{}
	}
	v.Raw = p.data[start:p.at]
	return v
}

func (p *parser) word() Value {
	for word, kind := range map[string]Kind{"true": Bool, "false": Bool, "null": Null} {
		if len(p.data)-p.at >= len(word) && string(p.data[p.at:p.at+len(word)]) == word {
			p.at += len(word)
			return Value{Kind: kind}
		}
	}
	p.fail("a value")
	return Value{}
}

func (p *parser) object(depth int) Value {
	v := Value{Kind: Object}
	p.at++
	if p.space(); p.take('}') {
		return v
	}
	for p.err == nil {
		if p.space(); p.peek() != '"' {
			p.fail("a name")
			break
		}
		v.Names = append(v.Names, p.text())
		if p.space(); !p.take(':') {
			p.fail("a colon")
			break
		}
		v.Parts = append(v.Parts, p.value(depth+1))
		if p.space(); p.take('}') {
			break
		}
		if !p.take(',') {
			p.fail("a comma or }")
		}
	}
	return v
}

func (p *parser) array(depth int) Value {
	v := Value{Kind: Array}
	p.at++
	if p.space(); p.take(']') {
		return v
	}
	for p.err == nil {
		v.Items = append(v.Items, p.value(depth+1))
		if p.space(); p.take(']') {
			break
		}
		if !p.take(',') {
			p.fail("a comma or ]")
		}
	}
	return v
}

// number: no leading zeros, a digit after the point, a digit in the exponent (RFC 8259, section 6).
func (p *parser) number() {
	p.take('-')
	if !p.take('0') {
		p.digits()
	}
	if p.take('.') {
		p.digits()
	}
	if p.take('e') || p.take('E') {
		if !p.take('+') {
			p.take('-')
		}
		p.digits()
	}
}

func (p *parser) digits() {
	if c := p.peek(); c < '0' || c > '9' {
		p.fail("a digit")
		return
	}
	for c := p.peek(); c >= '0' && c <= '9'; c = p.peek() {
		p.at++
	}
}

// text reads a string. Bytes that are no UTF-8 become U+FFFD.
func (p *parser) text() string {
	p.at++
	start := p.at
	for p.at < len(p.data) && p.data[p.at] >= ' ' && p.data[p.at] != '\\' && p.data[p.at] != '"' && p.data[p.at] < utf8.RuneSelf {
		p.at++
	}
	if p.peek() == '"' { // nearly always
		s := string(p.data[start:p.at])
		p.at++
		return s
	}
	b := append([]byte(nil), p.data[start:p.at]...)
	for p.err == nil {
		c := p.peek()
		switch {
		case c < ' ':
			p.fail("the end of a string")
		case c == '"':
			p.at++
			return string(b)
		case c == '\\':
			b = p.escape(b)
		default:
			r, n := utf8.DecodeRune(p.data[p.at:])
			b = utf8.AppendRune(b, r)
			p.at += n
		}
	}
	return ""
}
