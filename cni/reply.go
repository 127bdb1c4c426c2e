package cni

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/api"
)

// Bounds of the numbers that the plugin passes to the kernel.
const (
	minMTU      = 68    // ETH_MIN_MTU
	maxMTU      = 65535 // ETH_MAX_MTU
	maxProtocol = 255   // rtm_protocol is one byte
)

// decodeAddReply decodes and checks what the agent replies to ADD and CHECK. A field that is missing or out of bounds is
// an error: the interface would be made with MTU 0 or without one of its addresses.
func decodeAddReply(path string, body []byte) (r api.AddReply, err error) {
	f, err := parseFields(body)
	if err != nil {
		return r, replyError(path, err.Error())
	}
	r.Addresses = f.addresses("addresses")
	if r.HostIfName = f.required("hostIfName"); r.HostIfName != "" && !isIfName(r.HostIfName) {
		f.report.addf("hostIfName: expected 1 to 15 bytes without slash, colon or space, found %q", r.HostIfName)
	}
	r.MTU = f.integer("mtu", minMTU, maxMTU)
	r.Table = f.integer("table", 1, math.MaxUint32)
	r.Protocol = f.integer("protocol", 1, maxProtocol)
	r.DNS = f.dns("dns")
	return r, f.replyError(path)
}

// decodeStatusReply decodes what the agent replies to STATUS.
func decodeStatusReply(path string, body []byte) (r api.StatusReply, err error) {
	f, err := parseFields(body)
	if err != nil {
		return r, replyError(path, err.Error())
	}
	r.Code = f.integer("code", 0, math.MaxUint32)
	if !slices.Contains([]int{0, api.CodeUnavailable, api.CodeLimited}, r.Code) {
		f.report.addf("code: expected 0, %d or %d, found %d", api.CodeUnavailable, api.CodeLimited, r.Code)
	}
	r.Reason = get[string](f, "reason")
	return r, f.replyError(path)
}

// decodeError decodes the body of a reply with a status other than 200.
func decodeError(path string, status int, body []byte) error {
	e := &api.Error{}
	if err := json.Unmarshal(body, e); err != nil || e.Message == "" {
		return replyError(path, fmt.Sprintf("HTTP status %d: expected an object with code and message, found %q", status, abridged(body)))
	}
	if e.Code == 0 {
		e.Code = api.CodeInternal
	}
	return e
}

// addresses decodes the addresses of the Pod: at least one, none with a zone.
func (f *fields) addresses(key string) (out []netip.Addr) {
	if f.lookup(key) == nil {
		f.report.addf("%s%s: missing, expected a list of IP addresses", f.path, key)
		return nil
	}
	texts := get[[]json.RawMessage](f, key)
	for i, raw := range texts {
		var a netip.Addr
		if err := json.Unmarshal(raw, &a); err != nil || !a.IsValid() || a.Zone() != "" || a.Is4In6() {
			f.report.addf("%s%s[%d]: expected an IP address, found %s", f.path, key, i, abridged(raw))
			continue
		}
		out = append(out, a)
	}
	if len(texts) == 0 && len(f.report.problems) == 0 {
		f.report.addf("%s%s: expected at least one IP address, found an empty list", f.path, key)
	}
	return out
}

// dns decodes a resolver configuration in the form of the capability `dns`.
func (f *fields) dns(key string) api.DNS {
	d := f.object(key)
	return api.DNS{Servers: list[string](d, "servers"), Searches: list[string](d, "searches"), Options: list[string](d, "options")}
}

func (f *fields) replyError(path string) error {
	return f.report.err(api.CodeDecode, invalidReply(path))
}

func replyError(path, details string) error {
	return &api.Error{Code: api.CodeDecode, Message: invalidReply(path), Details: details}
}

func invalidReply(path string) string {
	return "invalid reply of the warren agent to " + path + " (are warren and warren-cni of the same version?)"
}
