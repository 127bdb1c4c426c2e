package route

import (
	"cmp"
	"slices"

	"github.com/warrennet/warren/internal/model"
)

// Controller is the value of spec.controller in IngressClasses that warren serves.
const Controller = "warren.dev/ingress"

// Classes decides which Ingresses are warren's.
type Classes struct {
	ours      map[string]bool
	byDefault bool // Ingresses without a class are warren's
	problems  []Problem
}

// NewClasses evaluates the IngressClasses. classless: Ingresses without a class are warren's even if no class is the default.
func NewClasses(list []*model.IngressClass, classless bool) Classes {
	c := Classes{ours: map[string]bool{}, byDefault: classless}
	var defaults []*model.IngressClass
	for _, k := range list {
		if k.Default {
			defaults = append(defaults, k)
		}
		if k.Controller != Controller {
			continue
		}
		c.ours[k.Name] = true
		if k.Parameters != "" {
			c.problems = append(c.problems, Problem{Kind: "IngressClass", Object: model.ObjectName{Name: k.Name},
				Field:  "spec.parameters",
				Reason: ClassParameters, Message: "parameters (" + k.Parameters + ") are not supported and have no effect"})
		}
	}
	if len(defaults) == 0 {
		return c
	}
	// As the API server's admission does it: of several defaults the newest counts, then the name.
	slices.SortFunc(defaults, func(a, b *model.IngressClass) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.Name, b.Name))
	})
	c.byDefault = c.byDefault || defaults[0].Controller == Controller
	for _, k := range defaults[1:] {
		if k.Controller == Controller {
			c.problems = append(c.problems, Problem{Kind: "IngressClass", Object: model.ObjectName{Name: k.Name},
				Field:  "metadata.annotations",
				Reason: ClassSeveralDefaults, Message: "IngressClass " + defaults[0].Name + " is the default as well, and is newer"})
		}
	}
	return c
}

// Serves reports whether an Ingress is warren's: by its class, by the older annotation, or without both by the default class.
func (c *Classes) Serves(in *model.Ingress) bool {
	switch {
	case in.Class != "":
		return c.ours[in.Class]
	case in.ClassAnnotation != "":
		return c.ours[in.ClassAnnotation]
	}
	return c.byDefault
}
