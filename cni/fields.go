package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/api"
)

// fields is a JSON object whose values are decoded one by one, so that an error names the field and its value.
//
// All problems of a document are collected in one report, because a user wants to see them together.
type fields struct {
	values map[string]json.RawMessage
	path   string          // of the object with a dot at its end, "" for the document itself
	known  map[string]bool // keys that were looked up
	report *report         // of the whole document
}

// report collects the problems of one document.
type report struct {
	problems
	unsupported bool // one of the problems is a field that warren does not support
}

// parseFields parses a document that must be one JSON object.
func parseFields(document []byte) (*fields, error) {
	f := &fields{known: map[string]bool{}, report: &report{}}
	if err := json.Unmarshal(document, &f.values); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return nil, fmt.Errorf("expected a JSON object, found %s", abridged(document))
		}
		return nil, fmt.Errorf("parse JSON: %w", err)
	}
	if f.values == nil {
		return nil, errors.New("expected a JSON object, found null")
	}
	return f, nil
}

// lookup returns the undecoded value of a key, nil when the key is missing or its value is null. Where the exact key is
// missing, one in other case counts, as in encoding/json: containerd writes HostPort for the convention's hostPort.
func (f *fields) lookup(key string) json.RawMessage {
	f.known[strings.ToLower(key)] = true
	raw, ok := f.values[key]
	if !ok {
		for _, k := range slices.Sorted(maps.Keys(f.values)) {
			if strings.EqualFold(k, key) {
				raw = f.values[k]
				break
			}
		}
	}
	if string(raw) == "null" {
		return nil
	}
	return raw
}

// get decodes the value of a key. A missing key and null give the zero value; a value of another type is a problem.
func get[T any](f *fields, key string) (v T) {
	if raw := f.lookup(key); raw != nil {
		v, _ = decode[T](f.report, f.path+key, raw)
	}
	return v
}

// list decodes the elements of a list one by one. An element of another type is a problem and left out.
func list[T any](f *fields, key string) (out []T) {
	for i, raw := range get[[]json.RawMessage](f, key) {
		if v, ok := decode[T](f.report, fmt.Sprintf("%s%s[%d]", f.path, key, i), raw); ok {
			out = append(out, v)
		}
	}
	return out
}

// object returns the fields of an object below f. It has none when the key is missing.
func (f *fields) object(key string) *fields {
	return f.below(key, get[map[string]json.RawMessage](f, key))
}

// objects returns the elements of a list of objects.
func (f *fields) objects(key string) (out []*fields) {
	for i, values := range list[map[string]json.RawMessage](f, key) {
		out = append(out, f.below(fmt.Sprintf("%s[%d]", key, i), values))
	}
	return out
}

func (f *fields) below(name string, values map[string]json.RawMessage) *fields {
	return &fields{values: values, path: f.path + name + ".", known: map[string]bool{}, report: f.report}
}

// required decodes a string that must be present and not empty.
func (f *fields) required(key string) string {
	raw := f.lookup(key)
	if raw == nil {
		f.report.addf("%s%s: missing, expected a string", f.path, key)
		return ""
	}
	s, ok := decode[string](f.report, f.path+key, raw)
	if ok && s == "" {
		f.report.addf("%s%s: empty, expected a string", f.path, key)
	}
	return s
}

// integer decodes a number that must be present and lie within bounds.
func (f *fields) integer(key string, low, high int64) int {
	raw := f.lookup(key)
	if raw == nil {
		f.report.addf("%s%s: missing, expected a whole number from %d to %d", f.path, key, low, high)
		return 0
	}
	var n int64
	if err := json.Unmarshal(raw, &n); err != nil || n < low || n > high {
		f.report.addf("%s%s: expected a whole number from %d to %d, found %s", f.path, key, low, high, abridged(raw))
		return 0
	}
	return int(n)
}

// rejectUnknown reports the keys that were not looked up. Keys in the specification's name space, cni.dev/, are exempt.
// Below the top level a key with an empty value requests nothing and is exempt as well.
func (f *fields) rejectUnknown(format string) {
	for _, k := range slices.Sorted(maps.Keys(f.values)) {
		empty := f.path != "" && slices.Contains([]string{"null", `""`, "[]", "{}"}, string(f.values[k]))
		if f.known[strings.ToLower(k)] || strings.HasPrefix(k, "cni.dev/") || empty {
			continue
		}
		f.report.unsupported = true
		f.report.addf(format, k, abridged(f.values[k]))
	}
}

// configError has code 2 when there are unsupported fields, else 7 (CNI 1.1.0, section 5).
func (r *report) configError() error {
	if r.unsupported {
		return r.err(api.CodeUnsupported, "the network configuration has unsupported fields")
	}
	return r.err(api.CodeConfig, "invalid network configuration")
}

// decode decodes one value. Null is not a value here: encoding/json would turn it into the zero value.
func decode[T any](r *report, path string, raw json.RawMessage) (v T, ok bool) {
	if err := json.Unmarshal(raw, &v); err != nil || string(raw) == "null" {
		r.addf("%s: expected %s, found %s", path, kind(v), abridged(raw))
		var zero T
		return zero, false
	}
	return v, true
}

// kind describes in words the type of v in an error message.
func kind(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case uint16:
		return "a whole number from 0 to 65535"
	case []json.RawMessage:
		return "a list"
	case map[string]json.RawMessage:
		return "an object"
	}
	return fmt.Sprintf("a value of type %T", v)
}

func abridged(raw []byte) string {
	if len(raw) > 100 {
		return string(raw[:100]) + "..."
	}
	return string(raw)
}

// problems collects everything that is wrong with an input, to be reported at once.
type problems []string

func (p *problems) addf(format string, a ...any) { *p = append(*p, fmt.Sprintf(format, a...)) }

func (p problems) err(code int, message string) error {
	if len(p) == 0 {
		return nil
	}
	return &api.Error{Code: code, Message: message, Details: strings.Join(p, "; ")}
}
