package route

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/warrennet/warren/internal/model"
	"golang.org/x/net/http/httpguts"
)

// Prefixes of the annotations that change how an Ingress is served. Those of ingress-nginx count only with Config.Nginx.
const (
	Prefix      = "warren.dev/"
	NginxPrefix = "nginx.ingress.kubernetes.io/"
)

// Support is how warren treats an annotation, compared with ingress-nginx.
type Support string

// The kinds of support.
const (
	Same        Support = "same"
	Different   Support = "different"
	Unsupported Support = "unsupported"
)

// Annotation is one annotation of ingress-nginx, or of warren alone.
type Annotation struct {
	Name    string // without prefix
	Support Support
	Note    string // what differs, or what to do instead

	parse func(o *options, value string) error // nil: no effect
}

// maxValue bounds the length of a value.
const maxValue = 4096

// Annotations are all annotations that warren has a statement about, by name.
func Annotations() []Annotation {
	return slices.SortedFunc(maps.Values(catalogue), func(a, b Annotation) int { return strings.Compare(a.Name, b.Name) })
}

// catalogue is made once, from what is supported and from the names of what is not.
var catalogue = makeCatalogue()

func makeCatalogue() map[string]Annotation {
	out := map[string]Annotation{}
	for _, list := range [][]Annotation{supported, unsupported()} {
		for _, a := range list {
			out[a.Name] = a
		}
	}
	return out
}

// supported have an effect.
var supported = []Annotation{
	{"affinity", Same, "", func(o *options, v string) (err error) { o.affinity, err = oneOf(v, "cookie"); return err }},
	{"affinity-mode", Different, "persistent in both modes: a session moves only when its endpoint is gone",
		func(_ *options, v string) error {
			_, err := oneOf(v, "balanced", "persistent")
			return err
		}},
	{"allowlist-source-range", Same, "", func(o *options, v string) (err error) { o.allow, err = parsePrefixes(v); return err }},
	{"app-root", Same, "", func(o *options, v string) (err error) { o.appRoot, err = parsePath(v); return err }},
	{"backend-protocol", Different, "AJP and FCGI are not supported; certificates of HTTPS backends are not verified",
		func(o *options, v string) (err error) {
			o.protocol, err = oneOf(strings.ToUpper(v), "HTTP", "HTTPS", "GRPC", "GRPCS")
			return err
		}},
	{"canary", Same, "", func(o *options, v string) (err error) { o.canary, err = parseBool(v); return err }},
	{"canary-by-cookie", Same, "", func(o *options, v string) (err error) { o.canaryCookie, err = parseToken(v); return err }},
	{"canary-by-header", Same, "", func(o *options, v string) (err error) { o.canaryHeader, err = parseToken(v); return err }},
	{"canary-by-header-pattern", Different, "RE2 instead of PCRE", func(o *options, v string) (err error) {
		o.canaryPattern, err = parseRegexp(v)
		return err
	}},
	{"canary-by-header-value", Same, "", func(o *options, v string) error { o.canaryValue = v; return nil }},
	{"canary-weight", Same, "", func(o *options, v string) (err error) { o.canaryWeight, err = parseInt(v, 0, 1<<30); return err }},
	{"canary-weight-total", Same, "", func(o *options, v string) (err error) { o.canaryTotal, err = parseInt(v, 1, 1<<30); return err }},
	{"cors-allow-credentials", Same, "", func(o *options, v string) (err error) { o.cors.credentials, err = parseBool(v); return err }},
	{"cors-allow-headers", Same, "", func(o *options, v string) (err error) { o.cors.headers, err = parseValue(v); return err }},
	{"cors-allow-methods", Same, "", func(o *options, v string) (err error) { o.cors.methods, err = parseValue(v); return err }},
	{"cors-allow-origin", Same, "", func(o *options, v string) (err error) { o.cors.origins, err = parseOrigins(v); return err }},
	{"cors-expose-headers", Same, "", func(o *options, v string) (err error) { o.cors.expose, err = parseValue(v); return err }},
	{"cors-max-age", Same, "", func(o *options, v string) error {
		n, err := parseInt(v, 0, 1<<30)
		o.cors.maxAge = strconv.Itoa(n)
		return err
	}},
	{"default-backend", Different, "used when the backend has no endpoint, not for custom-http-errors",
		func(o *options, v string) (err error) { o.defaultBackend, err = parseToken(v); return err }},
	{"denylist-source-range", Same, "", func(o *options, v string) (err error) { o.deny, err = parsePrefixes(v); return err }},
	{"enable-cors", Same, "", func(o *options, v string) (err error) { o.corsOn, err = parseBool(v); return err }},
	{"force-ssl-redirect", Same, "", func(o *options, v string) (err error) { o.forceSSL, err = parseBool(v); return err }},
	{"from-to-www-redirect", Same, "", func(o *options, v string) (err error) { o.www, err = parseBool(v); return err }},
	{"hsts", Different, "of warren alone: the value of Strict-Transport-Security in responses over https",
		func(o *options, v string) (err error) { o.hsts, err = parseValue(v); return err }},
	{"load-balance", Different, "ewma is least-requests", func(o *options, v string) (err error) {
		o.balancing,
			err = parseBalancing(v)
		return err
	}},
	{"permanent-redirect", Same, "", func(o *options, v string) (err error) { o.redirect, err = parseURL(v); return err }},
	{"permanent-redirect-code", Same, "", func(o *options, v string) (err error) {
		o.redirectCode, err = parseInt(v, 300,
			308)
		return err
	}},
	{"proxy-body-size", Different, "no limit by default", func(o *options, v string) (err error) {
		o.maxBody,
			err = parseSize(v)
		return err
	}},
	{"proxy-connect-timeout", Same, "", func(o *options, v string) (err error) { o.connect, err = parseSeconds(v); return err }},
	{"proxy-next-upstream-tries", Different, "0 is warren's limit of 3, not unlimited",
		func(o *options, v string) (err error) { o.tries, err = parseInt(v, 0, 10); return err }},
	{"proxy-read-timeout", Same, "", func(o *options, v string) (err error) { o.read, err = parseSeconds(v); return err }},
	{"proxy-send-timeout", Same, "", func(o *options, v string) (err error) { o.send, err = parseSeconds(v); return err }},
	{"rewrite-target", Different, "RE2 instead of PCRE; under warren.dev/ it does not imply use-regex",
		func(o *options, v string) (err error) { o.rewrite, err = parseRewrite(v); return err }},
	{"server-alias", Different, "no regular expressions", func(o *options, v string) (err error) {
		o.aliases,
			err = parseAliases(v)
		return err
	}},
	{"session-cookie-domain", Same, "", func(o *options, v string) (err error) { o.cookie.Domain, err = parseHost(v); return err }},
	{"session-cookie-max-age", Same, "", func(o *options, v string) (err error) {
		o.cookie.MaxAge, err = parseInt(v, 1,
			1<<31-1)
		return err
	}},
	{"session-cookie-name", Same, "", func(o *options, v string) (err error) { o.cookie.Name, err = parseToken(v); return err }},
	{"session-cookie-path", Same, "", func(o *options, v string) (err error) { o.cookie.Path, err = parsePath(v); return err }},
	{"session-cookie-samesite", Same, "", func(o *options, v string) (err error) {
		o.cookie.SameSite,
			err = parseSameSite(v)
		return err
	}},
	{"session-cookie-secure", Same, "", func(o *options, v string) (err error) { o.cookie.Secure, err = parseBool(v); return err }},
	{"service-upstream", Different, "no effect: requests always go to the endpoints", func(_ *options, v string) error {
		_, err := parseBool(v)
		return err
	}},
	{"ssl-redirect", Different, "false by default under warren.dev/; ACME challenges are never redirected",
		func(o *options, v string) error {
			on, err := parseBool(v)
			o.sslRedirect = &on
			return err
		}},
	{"strip-prefix", Different, "of warren alone: true removes the path of a Prefix rule from the request",
		func(o *options, v string) (err error) { o.stripPrefix, err = parseBool(v); return err }},
	{"temporal-redirect", Same, "", func(o *options, v string) (err error) { o.temporal, err = parseURL(v); return err }},
	{"temporal-redirect-code", Same, "", func(o *options, v string) (err error) {
		o.temporalCode, err = parseInt(v, 300,
			308)
		return err
	}},
	{"upstream-hash-by", Different, "only the variables of a request's line, header fields, cookies and client",
		func(o *options, v string) (err error) { o.hash, err = parseHashKey(v); return err }},
	{"upstream-vhost", Same, "", func(o *options, v string) (err error) { o.vhost, err = parseHost(v); return err }},
	{"use-regex", Different, "RE2 instead of PCRE; under warren.dev/ only ImplementationSpecific paths of this Ingress, case-sensitive",
		func(o *options, v string) (err error) { o.useRegex, err = parseBool(v); return err }},
	{"whitelist-source-range", Same, "older name of allowlist-source-range",
		func(o *options, v string) (err error) { o.allow, err = parsePrefixes(v); return err }},
	{"x-forwarded-prefix", Same, "", func(o *options, v string) (err error) { o.forwardedPrefix, err = parseValue(v); return err }},
}

// unsupported have no effect, by the reason.
func unsupported() (out []Annotation) {
	for note, names := range map[string]string{
		"not implemented yet": `
			affinity-canary-behavior auth-always-set-cookie auth-cache-duration auth-cache-key auth-keepalive
			auth-keepalive-requests auth-keepalive-share-vars auth-keepalive-timeout auth-method auth-proxy-set-headers
			auth-realm auth-request-redirect auth-response-headers auth-secret auth-secret-type auth-signin
			auth-signin-redirect-param auth-tls-error-page auth-tls-match-cn auth-tls-pass-certificate-to-upstream
			auth-tls-secret auth-tls-verify-client auth-tls-verify-depth auth-type auth-url connection-proxy-header
			custom-headers custom-http-errors disable-proxy-intercept-errors enable-global-auth limit-allowlist
			limit-burst-multiplier limit-connections limit-rate limit-rate-after limit-rpm limit-rps limit-whitelist
			mirror-host mirror-request-body mirror-target preserve-trailing-slash proxy-cookie-domain proxy-cookie-path
			proxy-redirect-from proxy-redirect-to proxy-ssl-ciphers proxy-ssl-name proxy-ssl-protocols proxy-ssl-secret
			proxy-ssl-server-name proxy-ssl-verify proxy-ssl-verify-depth relative-redirects satisfy
			session-cookie-change-on-failure session-cookie-conditional-samesite-none session-cookie-expires ssl-ciphers
			ssl-passthrough ssl-prefer-server-ciphers upstream-hash-by-subset upstream-hash-by-subset-size`,
		"text of nginx' configuration; there is nothing that it could apply to": `auth-snippet configuration-snippet server-snippet stream-snippet`,
		"ModSecurity is not part of warren":                                     `enable-modsecurity enable-owasp-core-rules modsecurity-snippet modsecurity-transaction-id`,
		"needs Lua and memcached":                                               `global-rate-limit global-rate-limit-ignored-cidrs global-rate-limit-key global-rate-limit-window`,
		"bodies are streamed, so that there is no buffer to configure": `
			client-body-buffer-size proxy-buffer-size proxy-buffering proxy-buffers-number proxy-busy-buffers-size
			proxy-max-temp-file-size proxy-request-buffering`,
		"a property of the process, not of an Ingress": `
			enable-access-log enable-opentelemetry enable-opentracing enable-rewrite-log http2-push-preload
			opentelemetry-operation-name opentelemetry-trust-incoming-span opentracing-trust-incoming-span
			proxy-http-version`,
		"the request is repeated only where that is safe": `proxy-next-upstream proxy-next-upstream-timeout`,
		"removed from ingress-nginx": `
			enable-influxdb influxdb-host influxdb-measurement influxdb-port influxdb-server-name secure-backends
			secure-verify-ca-secret`,
	} {
		for name := range strings.FieldsSeq(names) {
			out = append(out, Annotation{Name: name, Support: Unsupported, Note: note})
		}
	}
	return out
}

// parseOptions reads the annotations. An invalid or unsupported one is a problem and has no effect. Those of warren override those of
// ingress-nginx. nil without any that has an effect.
func (c *Compiler) parseOptions(in *model.Ingress) (*options, []Problem) {
	o := newOptions(in)
	any := false
	var problems []Problem
	prefixes := []string{Prefix}
	if c.cfg.Nginx {
		prefixes, o.nginx, any = []string{NginxPrefix, Prefix}, true, true
	}
	for _, prefix := range prefixes {
		for _, key := range slices.Sorted(maps.Keys(in.Annotations)) {
			name, ok := strings.CutPrefix(key, prefix)
			if !ok {
				continue
			}
			if p := o.set(name, in.Annotations[key]); p.Reason != "" {
				p.Kind, p.Object, p.Field = "Ingress", in.ObjectName, "metadata.annotations["+key+"]"
				problems = append(problems, p)
				continue
			}
			any = true
		}
	}
	if !any {
		return nil, problems
	}
	o.finish()
	return o, problems
}

// set applies one annotation. The result has a reason if that failed.
func (o *options) set(name, value string) Problem {
	a, ok := catalogue[name]
	switch {
	case !ok:
		return Problem{Reason: AnnotationUnsupported, Message: "warren does not have this annotation; it has no effect"}
	case a.parse == nil:
		return Problem{Reason: AnnotationUnsupported, Message: a.Note + "; it has no effect"}
	case len(value) > maxValue:
		return Problem{Reason: AnnotationInvalid, Message: fmt.Sprintf("%d bytes, at most %d; it has no effect", len(value), maxValue)}
	}
	former := *o
	if err := a.parse(o, strings.TrimSpace(value)); err != nil {
		*o = former
		return Problem{Reason: AnnotationInvalid, Message: fmt.Sprintf("%q: %v; it has no effect", value, err)}
	}
	return Problem{}
}

func parseBool(v string) (bool, error) {
	switch v {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, errors.New("expected true or false")
}

func parseInt(v string, least, most int) (int, error) {
	n, err := strconv.Atoi(v)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("expected a number from %d to %d", least, most)
	}
	return n, nil
}

// parseSeconds reads a number of seconds, as ingress-nginx has it, or a duration such as 1m30s.
func parseSeconds(v string) (time.Duration, error) {
	d, err := time.ParseDuration(v)
	if n, nerr := strconv.Atoi(v); nerr == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d <= 0 || d > 24*time.Hour {
		return 0, errors.New("expected seconds or a duration such as 1m30s, above 0 and at most 24h")
	}
	return d, nil
}

func oneOf(v string, valid ...string) (string, error) {
	if slices.Contains(valid, v) {
		return v, nil
	}
	return "", fmt.Errorf("expected one of %s", strings.Join(valid, ", "))
}

func parseBalancing(v string) (Balancing, error) {
	switch v {
	case "round_robin", string(RoundRobin):
		return RoundRobin, nil
	case "ewma", string(LeastRequests):
		return LeastRequests, nil
	}
	return "", fmt.Errorf("expected %s or %s", LeastRequests, RoundRobin)
}

// parsePrefixes reads addresses and CIDRs, separated by commas.
func parsePrefixes(v string) (out []netip.Prefix, err error) {
	for s := range strings.SplitSeq(v, ",") {
		s = strings.TrimSpace(s)
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("%q is no CIDR such as 192.0.2.0/24", s)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// parseValue accepts what may be the value of a header field.
func parseValue(v string) (string, error) {
	if v == "" || !httpguts.ValidHeaderFieldValue(v) {
		return "", errors.New("expected the value of a header field")
	}
	return v, nil
}

// parseToken accepts names of header fields, cookies and Services (RFC 9110, section 5.6.2).
func parseToken(v string) (string, error) {
	if !httpguts.ValidHeaderFieldName(v) {
		return "", errors.New("expected a name")
	}
	return v, nil
}

func parseHost(v string) (string, error) {
	if v == "" || !httpguts.ValidHostHeader(v) || strings.ContainsAny(v, "/$ ") {
		return "", errors.New("expected a host name; variables of nginx are not supported")
	}
	return v, nil
}

func parsePath(v string) (string, error) {
	u, err := url.Parse(v)
	if err != nil || !strings.HasPrefix(v, "/") || u.Host != "" || !httpguts.ValidHeaderFieldValue(v) {
		return "", errors.New("expected a path that begins with a slash")
	}
	return v, nil
}

func parseURL(v string) (string, error) {
	u, err := url.Parse(v)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Contains(v, "$") ||
		!httpguts.ValidHeaderFieldValue(v) {
		return "", errors.New("expected a URL http:// or https:// without variables")
	}
	return v, nil
}

// parseRewrite accepts a path with $1 to $9.
func parseRewrite(v string) (string, error) {
	if !strings.HasPrefix(v, "/") && !strings.HasPrefix(v, "$") {
		return "", errors.New("expected a path, with $1 to $9 for captured groups")
	}
	if rest := groupReference.ReplaceAllString(v, ""); strings.ContainsAny(rest, "$ ") {
		return "", errors.New("expected $1 to $9 only after a dollar sign, and no space")
	}
	return v, nil
}

var groupReference = regexp.MustCompile(`\$[1-9]`)

// maxRegexp bounds the length of a regular expression. RE2 matches in linear time.
const maxRegexp = 256

func parseRegexp(v string) (*regexp.Regexp, error) {
	if len(v) > maxRegexp {
		return nil, fmt.Errorf("%d bytes, at most %d", len(v), maxRegexp)
	}
	return regexp.Compile(v)
}

func parseSameSite(v string) (http.SameSite, error) {
	switch strings.ToLower(v) {
	case "lax":
		return http.SameSiteLaxMode, nil
	case "strict":
		return http.SameSiteStrictMode, nil
	case "none":
		return http.SameSiteNoneMode, nil
	}
	return 0, errors.New("expected Lax, Strict or None")
}

func parseOrigins(v string) (out []string, err error) {
	for s := range strings.SplitSeq(v, ",") {
		s = strings.TrimSpace(s)
		host := strings.TrimPrefix(strings.TrimPrefix(s, "https://"), "http://")
		if s != "*" && (host == s || host == "" || strings.ContainsAny(host, "/ ") || strings.Contains(strings.TrimPrefix(host, "*."),
			"*")) {
			return nil, fmt.Errorf("%q is neither * nor an origin such as https://example.com or https://*.example.com", s)
		}
		out = append(out, s)
	}
	return out, nil
}
