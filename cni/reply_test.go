package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/warrennet/warren/cni/internal/sandbox"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/testutil"
)

const goodReply = `{"addresses":["10.42.7.3","fd42::3"],"hostIfName":"wrnx","mtu":1420,"table":101,"protocol":157,
	"dns":{"servers":["10.43.0.10"],"searches":["a","b"],"options":["ndots:5"]}}`

// with returns goodReply with one field replaced; "" removes it.
func with(t *testing.T, field, value string) []byte {
	t.Helper()
	var m map[string]json.RawMessage
	if err := json.Unmarshal([]byte(goodReply), &m); err != nil {
		t.Fatal(err)
	}
	m[field] = json.RawMessage(value)
	if value == "" {
		delete(m, field)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// A field that is added to the type and not to the decoder fails here.
func TestDecodeAddReply_EveryField_IsDecoded(t *testing.T) {
	want := api.AddReply{Addresses: []netip.Addr{netip.MustParseAddr("10.42.7.3"), netip.MustParseAddr("fd42::3")}, HostIfName: "wrnx",
		MTU: 1420, Table: 101, Protocol: 157,
		DNS: api.DNS{Servers: []string{"10.43.0.10"}, Searches: []string{"a", "b"}, Options: []string{"ndots:5"}}}
	full(t, reflect.ValueOf(want))
	full(t, reflect.ValueOf(want.DNS))
	raw, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range [][]byte{raw, []byte(goodReply), with(t, "fieldOfANewerAgent", "1")} {
		got, err := decodeAddReply(api.CNIAddPath, body)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s was decoded as %+v, %v", body, got, err)
		}
	}
}

// full fails for a value that leaves a field of its type empty.
func full(t *testing.T, v reflect.Value) {
	t.Helper()
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("the test leaves %s.%s empty", v.Type(), v.Type().Field(i).Name)
		}
	}
}

func TestDecodeAddReply_InvalidField_NamesFieldAndValue(t *testing.T) {
	for _, c := range []struct{ name, field, value, want string }{
		{"MTU missing", "mtu", "", "mtu: missing"},
		{"MTU null", "mtu", "null", "mtu: missing"},
		{"MTU zero", "mtu", "0", "mtu: expected a whole number from 68 to 65535, found 0"},
		{"MTU a string", "mtu", `"1420"`, `mtu: expected a whole number from 68 to 65535, found "1420"`},
		{"MTU fractional", "mtu", "1420.5", "found 1420.5"},
		{"MTU too large", "mtu", "70000", "found 70000"},
		{"addresses missing", "addresses", "", "addresses: missing"},
		{"addresses empty", "addresses", "[]", "addresses: expected at least one IP address, found an empty list"},
		{"addresses no list", "addresses", `"10.42.7.3"`, `addresses: expected a list, found "10.42.7.3"`},
		{"one address malformed", "addresses", `["10.42.7.3","fd42::x"]`, `addresses[1]: expected an IP address, found "fd42::x"`},
		{"one address empty", "addresses", `["10.42.7.3",""]`, `addresses[1]: expected an IP address, found ""`},
		{"one address null", "addresses", `["10.42.7.3",null]`, `addresses[1]: expected an IP address, found null`},
		{"an address with a zone", "addresses", `["fe80::1%eth0"]`, `addresses[0]: expected an IP address, found "fe80::1%eth0"`},
		{"an address with a length", "addresses", `["10.42.7.3/32"]`, `addresses[0]: expected an IP address, found "10.42.7.3/32"`},
		{"host interface missing", "hostIfName", "", "hostIfName: missing"},
		{"host interface empty", "hostIfName", `""`, "hostIfName: empty"},
		{"host interface a number", "hostIfName", "7", "hostIfName: expected a string, found 7"},
		{"host interface too long", "hostIfName", `"sixteen-bytes-xx"`,
			`hostIfName: expected 1 to 15 bytes without slash, colon or space, found "sixteen-bytes-xx"`},
		{"table missing", "table", "", "table: missing"},
		{"table zero", "table", "0", "table: expected a whole number from 1 to 4294967295, found 0"},
		{"table a string", "table", `"main"`, `found "main"`},
		{"protocol missing", "protocol", "", "protocol: missing"},
		{"protocol more than a byte", "protocol", "256", "protocol: expected a whole number from 1 to 255, found 256"},
		{"DNS no object", "dns", "[]", "dns: expected an object, found []"},
		{"DNS servers no list", "dns", `{"servers":"10.43.0.10"}`, `dns.servers: expected a list, found "10.43.0.10"`},
		{"a DNS server no string", "dns", `{"servers":[1]}`, "dns.servers[0]: expected a string, found 1"},
		{"a search domain null", "dns", `{"searches":["a",null]}`, "dns.searches[1]: expected a string, found null"},
		{"DNS options no list", "dns", `{"options":{}}`, "dns.options: expected a list, found {}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := decodeAddReply(api.CNIAddPath, with(t, c.field, c.value))
			wantDecodeError(t, err, api.CNIAddPath, c.want)
		})
	}
}

func wantDecodeError(t *testing.T, err error, path, want string) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeDecode || !strings.Contains(e.Message, path) || !strings.Contains(e.Details, want) {
		t.Errorf("error %v, want code %d, path %s and %q", err, api.CodeDecode, path, want)
	}
}

func TestDecodeAddReply_SeveralInvalidFields_AreReportedTogether(t *testing.T) {
	_, err := decodeAddReply(api.CNIAddPath, []byte(`{"addresses":["x"],"mtu":-1}`))
	for _, want := range []string{`addresses[0]: expected an IP address, found "x"`, "found -1", "hostIfName: missing", "table: missing",
		"protocol: missing"} {
		wantDecodeError(t, err, api.CNIAddPath, want)
	}
}

func TestDecodeAddReply_NoObject_IsAnError(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{"", "parse JSON"}, {"{", "parse JSON"}, {goodReply + "{}", "parse JSON"}, {"null", "expected a JSON object, found null"},
		{"[]", "expected a JSON object, found []"},
	} {
		t.Run(c.body, func(t *testing.T) {
			_, err := decodeAddReply(api.CNIAddPath, []byte(c.body))
			wantDecodeError(t, err, api.CNIAddPath, c.want)
		})
	}
}

func TestDecodeStatusReply_ValidReply_IsDecoded(t *testing.T) {
	for _, c := range []struct {
		body string
		want api.StatusReply
	}{
		{`{"code":0}`, api.StatusReply{}},
		{`{"code":50,"reason":"r"}`, api.StatusReply{Code: 50, Reason: "r"}},
	} {
		t.Run(c.body, func(t *testing.T) {
			if got, err := decodeStatusReply(api.CNIStatusPath, []byte(c.body)); err != nil || got != c.want {
				t.Errorf("decoded %+v, %v, want %+v", got, err, c.want)
			}
		})
	}
}

func TestDecodeStatusReply_InvalidField_NamesFieldAndValue(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{`{}`, "code: missing"},
		{`{"code":"50"}`, `found "50"`},
		{`{"code":7}`, "code: expected 0, 50 or 51, found 7"},
		{`{"code":50,"reason":5}`, "reason: expected a string, found 5"},
	} {
		t.Run(c.body, func(t *testing.T) {
			_, err := decodeStatusReply(api.CNIStatusPath, []byte(c.body))
			wantDecodeError(t, err, api.CNIStatusPath, c.want)
		})
	}
}

func TestDecodeError_EachBody_HasCodeAndText(t *testing.T) {
	for _, c := range []struct {
		body string
		code int
		want string
	}{
		{`{"code":11,"message":"m","details":"d"}`, 11, "m: d"},
		{`{"message":"m"}`, api.CodeInternal, "m"},
		{`{"code":"x","message":"m"}`, api.CodeDecode, `HTTP status 503: expected an object with code and message, found "{\"code\":\"x\"`},
		{`{"code":11}`, api.CodeDecode, "HTTP status 503"},
		{`404 page not found`, api.CodeDecode, "404 page not found"},
	} {
		t.Run(c.body, func(t *testing.T) {
			err := decodeError("/v1/x", 503, []byte(c.body))
			if asError(err).Code != c.code || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want code %d and %q", err, c.code, c.want)
			}
		})
	}
}

// A valid attachment that cannot be read must not be taken for one that is absent: GC would remove a running Pod's interface.
func TestParseConfig_InvalidField_NamesFieldAndValue(t *testing.T) {
	for _, c := range []struct{ name, field, want string }{
		{"valid attachment without id", `"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"},{"ifname":"eth0"}]`,
			"cni.dev/valid-attachments[1].containerID: missing"},
		{"valid attachment with a number", `"cni.dev/valid-attachments":[{"containerID":7,"ifname":"eth0"}]`,
			"cni.dev/valid-attachments[0].containerID: expected a string, found 7"},
		{"valid attachment without interface", `"cni.dev/valid-attachments":[{"containerID":"a","ifname":""}]`,
			"cni.dev/valid-attachments[0].ifname: empty"},
		{"valid attachments no list", `"cni.dev/valid-attachments":{}`, "cni.dev/valid-attachments: expected a list, found {}"},
		{"port as a string", `"runtimeConfig":{"portMappings":[{"hostPort":"80","containerPort":1}]}`,
			`runtimeConfig.portMappings[0].hostPort: expected a whole number from 0 to 65535, found "80"`},
		{"protocol as a number", `"runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":1,"protocol":6}]}`,
			"runtimeConfig.portMappings[0].protocol: expected a string, found 6"},
		{"requested address null", `"runtimeConfig":{"ips":[null]}`, "runtimeConfig.ips[0]: expected a string, found null"},
		{"label without key", `"args":{"cni":{"labels":[{"value":"web"}]}}`, "args.cni.labels[0].key: missing"},
		{"socket as a number", `"socket":5`, "socket: expected a string, found 5"},
		{"prevResult no object", `"prevResult":"x"`, `prevResult: expected an object, found "x"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parseConfig([]byte(`{"cniVersion":"1.1.0","name":"n","type":"warren-cni",` + c.field + `}`))
			if asError(err).Code != api.CodeConfig || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want code %d and %q", err, api.CodeConfig, c.want)
			}
		})
	}
}

func TestPrevious_InvalidField_NamesFieldAndValue(t *testing.T) {
	for _, c := range []struct{ name, prev, want string }{
		{"interfaces no list", `{"interfaces":{}}`, "prevResult.interfaces: expected a list, found {}"},
		{"an address without length", `{"ips":[{"address":"10.42.7.3/32"},{"address":"10.42.7.4"}]}`,
			`prevResult.ips[1]: expected an object with an address`},
		{"an address missing", `{"ips":[{}]}`, "prevResult.ips[0]: expected an object with an address such as 10.42.7.3/32, found {}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf, err := parseConfig([]byte(`{"cniVersion":"1.1.0","name":"n","prevResult":` + c.prev + `}`))
			if err != nil {
				t.Fatal(err)
			}
			_, err = (&call{config: conf}).prevAddresses()
			if asError(err).Code != api.CodeConfig || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want code %d and %q", err, api.CodeConfig, c.want)
			}
		})
	}
}

// The agent of another version replies with MTU 0: ADD makes no interface and releases the reservation.
func TestAdd_ReplyWithoutMTU_FailsAndReleases(t *testing.T) {
	testutil.NeedRoot(t)
	socket := filepath.Join(t.TempDir(), "agent.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	released := make(chan api.DelRequest, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+api.CNIAddPath, func(w http.ResponseWriter, _ *http.Request) { w.Write(with(t, "mtu", "0")) })
	mux.HandleFunc("POST "+api.CNIDelPath, func(w http.ResponseWriter, r *http.Request) {
		var q api.DelRequest
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			t.Error(err)
		}
		released <- q
		w.Write([]byte("{}"))
	})
	srv := &http.Server{Handler: mux}
	t.Cleanup(func() { srv.Close() })
	go srv.Serve(l)

	pod, err := sandbox.New()
	if err != nil {
		t.Fatal(err)
	}
	defer pod.Close()
	vars := map[string]string{"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": pod.Path()}
	var out bytes.Buffer
	code := Run(Process{Getenv: func(k string) string { return vars[k] }, Stdout: &out,
		Stdin: strings.NewReader(`{"cniVersion":"1.1.0","name":"n","socket":"` + socket + `"}`)})
	if code != 1 || !strings.Contains(out.String(), "mtu: expected a whole number from 68 to 65535, found 0") {
		t.Errorf("exit code %d, printed %s", code, out.String())
	}
	select {
	case q := <-released:
		if q.ContainerID != "c1" || q.IfName != "eth0" {
			t.Errorf("released %+v", q)
		}
	default:
		t.Error("the reservation was not released")
	}
	if _, err := net.InterfaceByName(api.HostIfName(api.Attachment{ContainerID: "c1", IfName: "eth0"})); err == nil {
		t.Error("ADD made an interface")
	}
}
