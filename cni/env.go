package cni

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/warrennet/warren/cni/veth"
	"github.com/warrennet/warren/internal/api"
)

// env is the content of the CNI_* variables, checked.
type env struct {
	containerID, netns, ifName    string
	podNamespace, podName, podUID string
	argIPs                        []netip.Addr
	argMAC                        *veth.MAC
}

// needs lists the variables that a command requires. STATUS and GC have no attachment; CNI_NETNS is optional for DEL.
var needs = map[string][]string{
	"ADD":   {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"},
	"CHECK": {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"},
	"DEL":   {"CNI_CONTAINERID", "CNI_IFNAME"},
}

func parseEnv(command string, getenv func(string) string) (env, error) {
	e := env{containerID: getenv("CNI_CONTAINERID"), netns: getenv("CNI_NETNS"), ifName: getenv("CNI_IFNAME")}
	var p problems
	for _, name := range needs[command] {
		if getenv(name) == "" {
			p.addf("%s is missing", name)
		}
	}
	if e.containerID != "" && !isName(e.containerID) {
		p.addf("CNI_CONTAINERID %q: expected letters, digits, _ . - and a letter or digit first", e.containerID)
	}
	if e.ifName != "" && !isIfName(e.ifName) {
		p.addf("CNI_IFNAME %q: expected 1 to 15 bytes without slash, colon or space", e.ifName)
	}
	if command != "DEL" { // a runtime may pass other arguments than to ADD
		e.parseArgs(getenv("CNI_ARGS"), &p)
	}
	return e, p.err(api.CodeEnvironment, "invalid environment")
}

// parseArgs reads CNI_ARGS: KEY=VALUE pairs separated by semicolons. Kubernetes runtimes set IgnoreUnknown and pass
// further keys.
func (e *env) parseArgs(s string, p *problems) {
	var unknown []string
	ignore := false
	for pair := range strings.SplitSeq(s, ";") {
		key, value, ok := strings.Cut(pair, "=")
		if pair == "" {
			continue
		}
		if !ok {
			p.addf("CNI_ARGS has %q, expected KEY=VALUE", pair)
			continue
		}
		switch key {
		case "IgnoreUnknown":
			ignore = slices.Contains([]string{"1", "t", "true", "on", "yes"}, strings.ToLower(value))
		case "K8S_POD_NAMESPACE":
			e.podNamespace = value
		case "K8S_POD_NAME":
			e.podName = value
		case "K8S_POD_UID":
			e.podUID = value
		case "K8S_POD_INFRA_CONTAINER_ID":
		case "IP":
			for one := range strings.SplitSeq(value, ",") {
				e.argIPs = append(e.argIPs, p.address("CNI_ARGS IP", one)...)
			}
		case "MAC":
			e.argMAC = p.mac("CNI_ARGS MAC", value)
		default:
			unknown = append(unknown, key)
		}
	}
	if len(unknown) > 0 && !ignore {
		p.addf("CNI_ARGS has unknown keys %s and no IgnoreUnknown", strings.Join(unknown, ", "))
	}
}

// isIfName is the kernel's rule for interface names.
func isIfName(s string) bool {
	return len(s) <= 15 && s != "." && s != ".." && !strings.ContainsAny(s, "/: \t\n\v\f\r")
}
