package route

import (
	"cmp"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/model"
)

// Reason is the kind of a Problem. The values are constant, so that they may be a label of metrics and the reason of Events.
type Reason string

// The reasons.
const (
	AnnotationInvalid     Reason = "AnnotationInvalid"
	AnnotationUnsupported Reason = "AnnotationUnsupported"
	BackendResource       Reason = "BackendResource" // a resource backend, which no controller of warren serves
	CertificateInvalid    Reason = "CertificateInvalid"
	CertificateMismatch   Reason = "CertificateMismatch" // the certificate is not for the host
	ClassParameters       Reason = "ClassParameters"
	ClassSeveralDefaults  Reason = "ClassSeveralDefaults"
	EndpointsMissing      Reason = "EndpointsMissing"
	HostConflict          Reason = "HostConflict" // the host belongs to an Ingress of another namespace
	PathConflict          Reason = "PathConflict" // an older Ingress has the same path
	PathInvalid           Reason = "PathInvalid"
	SecretNotFound        Reason = "SecretNotFound"
	ServiceNotFound       Reason = "ServiceNotFound"
	ServicePortNotFound   Reason = "ServicePortNotFound"
	ServiceUnsupported    Reason = "ServiceUnsupported" // an ExternalName Service, or a port that is not TCP
)

// Problem is a fault of one object. Traffic of the object's other parts is not affected.
type Problem struct {
	Kind    string           `json:"kind"` // Ingress or IngressClass
	Object  model.ObjectName `json:"object"`
	Field   string           `json:"field,omitempty"` // such as spec.rules[0].host
	Reason  Reason           `json:"reason"`
	Message string           `json:"message"`
}

func (p Problem) String() string {
	at := strings.Trim(p.Kind+" "+strings.TrimPrefix(p.Object.String(), "/")+" "+p.Field, " ")
	return at + ": " + string(p.Reason) + ": " + p.Message
}

func sortProblems(list []Problem) {
	slices.SortStableFunc(list, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), a.Object.Compare(b.Object), cmp.Compare(a.Field, b.Field))
	})
}
