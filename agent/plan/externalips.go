package plan

import (
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb"
)

// maxExternalRules bounds the rules for ports of external IPs, by family. Only packets to a permitted range pass them.
const maxExternalRules = 256

// externalIPs redirects the ports that Services have at external IPs. The other ports of these addresses follow the host's routes.
func (p *Plan) externalIPs(in *Input, ports []servicelb.ExternalPort) {
	var rules [2][]hostnet.Rule
	for _, e := range ports {
		f := model.FamilyOf(e.Addr)
		if !in.has(f) {
			continue
		}
		if !nameable(e.Port.Port) {
			p.problem("external IP %s: port %d cannot be redirected, because the kernel has no rule for it; use another port",
				e.Addr, e.Port.Port)
			continue
		}
		r := hostnet.Rule{Pref: prefExternalPorts, Family: f, To: host(e.Addr), Proto: e.Proto,
			Dport: hostnet.Ports{Lo: e.Port.Port, Hi: e.Port.Port}, Table: tableTUN}
		if n := len(rules[f]); n > 0 && adjacent(rules[f][n-1], r) {
			rules[f][n-1].Dport.Hi = r.Dport.Hi
			continue
		}
		rules[f] = append(rules[f], r)
	}
	for _, f := range model.Families {
		if n := len(rules[f]); n > maxExternalRules {
			p.problem("external IPs of Services have %d separate %s port ranges, and this node redirects the first %d of them: "+
				"remove externalIPs, or use adjacent ports", n, f, maxExternalRules)
			rules[f] = rules[f][:maxExternalRules]
		}
		p.Host.ObjectRules = append(p.Host.ObjectRules, externalRules(in.ExternalIPs, f, rules[f])...)
	}
}

// adjacent reports whether the ports of a rule follow those of another one that is equal otherwise.
func adjacent(before, r hostnet.Rule) bool {
	return before.To == r.To && before.Proto == r.Proto && before.Dport.Hi+1 == r.Dport.Lo
}

// externalRules are the rules of ports and those that lead to them. The rules of ports are added first and removed last.
func externalRules(permitted []netip.Prefix, f model.Family, ports []hostnet.Rule) (out []hostnet.Rule) {
	if len(ports) == 0 {
		return nil
	}
	out = append(out, ports...)
	out = append(out, hostnet.Rule{Pref: prefNotExternal, Family: f, Goto: prefOwnDatagrams})
	for _, r := range permitted {
		if slices.ContainsFunc(ports, func(x hostnet.Rule) bool { return r.Contains(x.To.Addr()) }) {
			out = append(out, hostnet.Rule{Pref: prefExternalRanges, Family: f, To: r, Goto: prefExternalPorts})
		}
	}
	return out
}
