package route

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/model"
)

// Config is what a Compiler needs besides the objects.
type Config struct {
	// Classless: Ingresses without a class are served even if warren's class is not the default.
	Classless bool
	// SharedHosts are hosts that Ingresses of several namespaces may have rules for: names, "*.example.com", or "*" for all. Any
	// other host belongs to the namespace of the oldest Ingress that has it.
	SharedHosts []string
	// DefaultCertificate names the Secret for TLS handshakes that no other certificate is for; zero: Fallback.
	DefaultCertificate model.ObjectName
	// Fallback is used where DefaultCertificate does not exist; nil: such handshakes fail.
	Fallback  *tls.Certificate
	Balancing Balancing // default LeastRequests
	// Nginx: the annotations of ingress-nginx count, and its behaviour in five cases that differ (docs/ingress-annotations.md).
	Nginx bool
}

// Compiler makes Tables. It is not safe for concurrent use.
type Compiler struct {
	cfg      Config
	shared   sharedHosts
	served   []*model.Ingress // in order
	units    map[*model.Ingress]*unit
	hosts    map[string]*host
	backends map[backendKey]*Backend
	secrets  map[*model.TLSSecret]*certificate
	services index[model.Service, *model.Service]
	slices   index[model.EndpointSlice, []*model.EndpointSlice]
}

// index finds objects by name. It is made again only when the list of objects has changed.
type index[T, V any] struct {
	from []*T
	by   map[model.ObjectName]V
}

func (x *index[T, V]) set(list []*T, add func(map[model.ObjectName]V, *T)) {
	if x.by != nil && slices.Equal(x.from, list) {
		return
	}
	x.from, x.by = slices.Clone(list), make(map[model.ObjectName]V, len(list))
	for _, o := range list {
		add(x.by, o)
	}
}

// New makes a Compiler.
func New(c Config) *Compiler {
	if c.Balancing == "" {
		c.Balancing = LeastRequests
	}
	k := &Compiler{cfg: c, shared: sharedHosts{}}
	for _, h := range c.SharedHosts {
		k.shared[strings.ToLower(h)] = true
	}
	return k
}

// unit is one compiled Ingress. It is used again while the Ingress and its backends are the same.
type unit struct {
	in       *model.Ingress
	rules    []unitRule
	fallback *Entry
	refs     []*model.IngressBackend
	backends []*Backend // of refs
	problems []Problem

	options   *options // nil without any
	balancing Balancing
}

// isCanary reports whether the Ingress only adds alternatives to the rules of others.
func (u *unit) isCanary() bool { return u.options != nil && u.options.canary }

type unitRule struct {
	field   string // of the Ingress
	host    string
	entries []*Entry
}

// hostField is the field that has the host.
func (r *unitRule) hostField() string {
	if strings.HasPrefix(r.field, "spec.") {
		return r.field + ".host"
	}
	return r.field
}

// addHosts adds the hosts of the annotations server-alias and from-to-www-redirect.
func (u *unit) addHosts() {
	if u.options == nil {
		return
	}
	own := u.rules
	for _, alias := range u.options.aliases {
		rule := unitRule{field: "metadata.annotations[server-alias]", host: alias}
		for _, r := range own {
			for _, e := range r.entries {
				if slices.ContainsFunc(rule.entries, func(o *Entry) bool { return o.Path == e.Path && o.Type == e.Type }) {
					continue // of several hosts the first counts
				}
				x := *e
				x.Host = alias
				x.decision = decide(&x)
				rule.entries = append(rule.entries, &x)
			}
		}
		u.rules = append(u.rules, rule)
	}
	if !u.options.www {
		return
	}
	for _, r := range own {
		if r.host == "" || strings.HasPrefix(r.host, "*") || len(r.entries) == 0 {
			continue
		}
		other, ok := strings.CutPrefix(r.host, "www.")
		if !ok {
			other = "www." + r.host
		}
		x := Entry{Ingress: u.in, Host: other, Path: "/", Backend: r.entries[0].Backend, toHost: r.host}
		x.decision = decide(&x)
		u.rules = append(u.rules, unitRule{"metadata.annotations[from-to-www-redirect]", other, []*Entry{&x}})
	}
}

// compilation is the state of one Compile.
type compilation struct {
	*Compiler
	table    *Table
	secretBy map[model.ObjectName]*model.TLSSecret
	owners   map[string]string // host -> namespace
	sources  map[string][]*unit
	order    []string // hosts in the order of their first rule
	// What this compilation has used, for the next one.
	newUnits    map[*model.Ingress]*unit
	newBackends map[backendKey]*Backend
	newSecrets  map[*model.TLSSecret]*certificate
	certOwner   map[string]*model.Ingress
}

// Compile makes a Table of the objects. Equal objects give equal tables.
func (c *Compiler) Compile(in *model.IngressObjects) *Table {
	n := len(in.Ingresses)
	k := &compilation{Compiler: c, table: &Table{Revision: in.Revision, shared: c.shared,
		hosts: make(map[string]*host, n), wildcards: map[string]*host{},
		certificates: map[string]*tls.Certificate{}, wildcardCert: map[string]*tls.Certificate{}},
		secretBy: make(map[model.ObjectName]*model.TLSSecret, len(in.Secrets)),
		owners:   make(map[string]string, n), sources: make(map[string][]*unit, n),
		newUnits: make(map[*model.Ingress]*unit, n), newBackends: make(map[backendKey]*Backend, len(c.backends)),
		newSecrets: map[*model.TLSSecret]*certificate{}, certOwner: map[string]*model.Ingress{}}
	c.services.set(in.Services, func(m map[model.ObjectName]*model.Service, s *model.Service) { m[s.ObjectName] = s })
	c.slices.set(in.Slices, func(m map[model.ObjectName][]*model.EndpointSlice, s *model.EndpointSlice) {
		name := model.ObjectName{Namespace: s.Namespace, Name: s.Service}
		m[name] = append(m[name], s)
	})
	for _, s := range in.Secrets {
		k.secretBy[s.ObjectName] = s
	}
	classes := NewClasses(in.Classes, c.cfg.Classless)
	k.table.Problems = append(k.table.Problems, classes.problems...)
	for _, x := range in.Ingresses {
		if classes.Serves(x) {
			k.table.Served = append(k.table.Served, x)
		}
	}
	k.table.Served = c.inOrder(k.table.Served)
	c.served = k.table.Served
	for _, x := range k.table.Served {
		k.ingress(x)
	}
	k.makeHosts()
	k.defaultCertificate()
	sortProblems(k.table.Problems)
	c.units, c.backends, c.secrets = k.newUnits, k.newBackends, k.newSecrets
	return k.table
}

func byAge(a, b *model.Ingress) int {
	return cmp.Or(a.Created.Compare(b.Created), a.Compare(b.ObjectName))
}

// inOrder sorts Ingresses by age, then namespace and name. Only those that are new are sorted, and merged with the former ones.
func (c *Compiler) inOrder(list []*model.Ingress) []*model.Ingress {
	var fresh []*model.Ingress
	present := make(map[*model.Ingress]bool, len(list))
	for _, x := range list {
		if c.units[x] == nil {
			fresh = append(fresh, x)
		} else {
			present[x] = true
		}
	}
	slices.SortFunc(fresh, byAge)
	out := make([]*model.Ingress, 0, len(list))
	for _, x := range c.served {
		if !present[x] {
			continue
		}
		for len(fresh) > 0 && byAge(fresh[0], x) < 0 {
			out, fresh = append(out, fresh[0]), fresh[1:]
		}
		out = append(out, x)
	}
	return append(out, fresh...)
}

func (k *compilation) problem(in *model.Ingress, field string, r Reason, message string) {
	k.table.Problems = append(k.table.Problems, Problem{Kind: "Ingress", Object: in.ObjectName, Field: field, Reason: r,
		Message: message})
}

// ingress compiles one Ingress, claims its hosts and adds its certificates.
func (k *compilation) ingress(in *model.Ingress) {
	u := k.unit(in)
	k.newUnits[in] = u
	k.table.Problems = append(k.table.Problems, u.problems...)
	for i := range u.rules {
		r := &u.rules[i]
		if other := k.claim(r.host, in.Namespace); other != "" {
			k.problem(in, r.hostField(), HostConflict, conflictText(r.host, other))
			continue
		}
		list, ok := k.sources[r.host]
		if !ok {
			k.order = append(k.order, r.host)
			if h := k.hosts[r.host]; h != nil && h.sources[0] == u {
				k.sources[r.host] = h.sources[:1:1] // the usual case needs no list of its own
				continue
			}
		}
		if len(list) == 0 || list[len(list)-1] != u {
			k.sources[r.host] = append(list, u)
		}
	}
	if len(u.rules) == 0 && u.fallback != nil {
		if f := k.table.fallback; f == nil {
			k.table.fallback = u.fallback
		} else {
			k.problem(in, "spec.defaultBackend", PathConflict,
				"the older Ingress "+f.Ingress.ObjectName.String()+" without rules has a default backend, which is used")
		}
	}
	k.ingressCertificates(in)
}

func conflictText(name, owner string) string {
	if name == "" {
		name = "requests for any host"
	}
	return fmt.Sprintf("%s: an older Ingress of namespace %s has it; hosts are shared by namespaces only if --shared-hosts permits it",
		name, owner)
}

// claim makes a namespace the owner of a host. It returns the other owner that it has already, "" if the namespace may use it. A
// wildcard host of another namespace covers the names below it.
func (k *compilation) claim(name, namespace string) (other string) {
	owner, ok := k.owners[name]
	if !ok {
		if _, parent, found := strings.Cut(name, "."); found && !strings.HasPrefix(name, "*") {
			owner = k.owners["*."+parent]
		}
	}
	if owner != "" && owner != namespace && !k.shared.has(name) {
		return owner
	}
	if !ok {
		k.owners[name] = namespace
	}
	return ""
}

// unit compiles an Ingress, or returns the former result if nothing that it depends on has changed.
func (k *compilation) unit(in *model.Ingress) *unit {
	if u := k.units[in]; u != nil {
		same := true
		for i, ref := range u.refs {
			same = k.backend(in.Namespace, ref, u.balancing) == u.backends[i] && same
		}
		if same {
			return u
		}
	}
	u := &unit{in: in, balancing: k.cfg.Balancing}
	o, problems := k.parseOptions(in)
	u.problems, u.options = problems, o
	if o != nil && o.balancing != "" {
		u.balancing = o.balancing
	}
	if in.Default != nil {
		u.fallback = k.entry(u, o, "spec.defaultBackend", Entry{Ingress: in}, in.Default)
	}
	for i := range in.Rules {
		r := &in.Rules[i]
		rule := unitRule{field: fmt.Sprintf("spec.rules[%d]", i), host: strings.ToLower(r.Host)}
		for j := range r.Paths {
			p := &r.Paths[j]
			at := fmt.Sprintf("spec.rules[%d].http.paths[%d]", i, j)
			path := cmp.Or(p.Path, "/")
			if path[0] != '/' {
				u.problem(at+".path", PathInvalid, fmt.Sprintf("%q does not start with a slash; the path is not served", path))
				continue
			}
			rule.entries = append(rule.entries, k.entry(u, o, at+".backend", Entry{Ingress: in, Host: rule.host, Path: path,
				Type: p.Type},
				&p.Backend))
		}
		u.rules = append(u.rules, rule)
	}
	u.addHosts()
	return u
}

func (u *unit) problem(field string, r Reason, message string) {
	u.problems = append(u.problems, Problem{Kind: "Ingress", Object: u.in.ObjectName, Field: field, Reason: r, Message: message})
}

// entry completes a rule with its backend and decision.
func (k *compilation) entry(u *unit, o *options, field string, e Entry, ref *model.IngressBackend) *Entry {
	if ref.Resource != "" {
		u.problem(field+".resource", BackendResource, ref.Resource+": resource backends are not supported; requests get status 503")
		e.Backend = &Backend{reason: BackendResource, message: "the backend is a resource (" + ref.Resource + ")"}
	} else {
		e.Backend = k.use(u, ref)
		k.useDefault(u, o, field, &e)
	}
	e.options = o
	e.decision = decide(&e)
	if o != nil && o.affinity != "" {
		e.session = newSession(&e)
	}
	return &e
}

// use returns the backend of a Service's port, and notes that the unit depends on it.
func (k *compilation) use(u *unit, ref *model.IngressBackend) *Backend {
	b := k.backend(u.in.Namespace, ref, u.balancing)
	u.refs, u.backends = append(u.refs, ref), append(u.backends, b)
	return b
}

// useDefault replaces a backend without endpoints by that of the annotation default-backend, or reports why there is none.
func (k *compilation) useDefault(u *unit, o *options, field string, e *Entry) {
	if e.Backend.reason == "" {
		return
	}
	consequence := "; requests get status 503"
	if o != nil && o.defaultBackend != "" {
		name := model.ObjectName{Namespace: u.in.Namespace, Name: o.defaultBackend}
		ref := &model.IngressBackend{Service: o.defaultBackend}
		if svc := k.services.by[name]; svc != nil && len(svc.Ports) > 0 {
			ref.Port = svc.Ports[0].Port
		}
		if b := k.use(u, ref); b.reason == "" {
			consequence = "; requests get the default backend " + name.String()
			e.Backend, b = b, e.Backend
			u.problem(field, b.reason, b.message+consequence)
			return
		}
		consequence = "; the default backend " + name.String() + " has no endpoint either: requests get status 503"
	}
	u.problem(field, e.Backend.reason, e.Backend.message+consequence)
}

// backend returns the backend of a Service's port. It is the former one if neither the Service nor its slices have changed.
func (k *compilation) backend(namespace string, ref *model.IngressBackend, how Balancing) *Backend {
	key := backendKey{model.ObjectName{Namespace: namespace, Name: ref.Service}, portName(ref), how}
	if b := k.newBackends[key]; b != nil {
		return b
	}
	svc, list, former := k.services.by[key.service], k.slices.by[key.service], k.backends[key]
	if former == nil || former.service != svc || !slices.Equal(former.slices, list) {
		former = newBackend(key, ref, svc, list, former)
	}
	k.newBackends[key] = former
	return former
}

// makeHosts builds what each host serves, from the Ingresses in their order. A host whose Ingresses are unchanged is used again.
func (k *compilation) makeHosts() {
	kept := make(map[string]*host, len(k.order))
	for _, name := range k.order {
		h := k.hosts[name]
		if h == nil || h.owner != k.owners[name] || !slices.Equal(h.sources, k.sources[name]) {
			h = k.newHost(name, k.owners[name], k.sources[name])
		}
		kept[name] = h
		k.table.Problems = append(k.table.Problems, h.problems...)
		switch suffix, wildcard := strings.CutPrefix(name, "*."); {
		case name == "":
			k.table.any = h
		case wildcard:
			k.table.wildcards[suffix] = h
		default:
			k.table.hosts[name] = h
		}
	}
	k.Compiler.hosts = kept
}
