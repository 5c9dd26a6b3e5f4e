//! From what a new layer is made when a checkpoint is restored or forked.

use crate::{ids::LayerId, scope::Scope, template::TemplateRef};

/// A tree: a template and, upon it, a layer or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeRef {
    /// The template below.
    pub template: TemplateRef,
    /// The layer upon it; `None`: the bare template.
    pub layer: Option<LayerId>,
}

/// A set of paths.
#[derive(Debug, Clone)]
pub enum Region {
    /// What is in scope.
    Inside(Scope),
    /// What is not in scope.
    Outside(Scope),
}

/// How a new layer is made.
#[derive(Debug, Clone)]
pub struct LayerPlan {
    /// What the new layer lies on.
    pub template: TemplateRef,
    /// The layer it starts as a snapshot of; `None`: it starts empty.
    pub base: Option<LayerId>,
    /// What is then put into it.
    pub graft: Option<Graft>,
}

impl LayerPlan {
    /// Whether the layer starts with nothing in it.
    pub const fn is_empty(&self) -> bool {
        self.base.is_none() && self.graft.is_none()
    }
}

/// Makes a region of a layer show what another tree shows there.
#[derive(Debug, Clone)]
pub struct Graft {
    /// What is taken from.
    pub from: TreeRef,
    /// Where.
    pub region: Region,
    /// `true`: the region becomes identical; `false`: it only gains what is missing.
    pub overwrite: bool,
}

/// Plans the layer of a restore of `checkpoint`, captured within `scope`, into a sandbox that now shows `current`.
///
/// Inside the scope the sandbox becomes what the checkpoint holds, outside of it nothing changes
/// (with `overwrite` off: only what is missing comes back). Whatever can be a snapshot is one.
pub fn plan_restore(checkpoint: &TreeRef, scope: &Scope, current: &TreeRef, overwrite: bool) -> LayerPlan {
    let graft = |from: &TreeRef, region| Some(Graft { from: from.clone(), region, overwrite });
    if overwrite && !scope.has_includes() {
        let graft = if scope.is_everything() { None } else { graft(current, Region::Outside(scope.clone())) };
        return LayerPlan { template: checkpoint.template.clone(), base: checkpoint.layer, graft };
    }
    LayerPlan {
        template: current.template.clone(),
        base: current.layer,
        graft: graft(checkpoint, Region::Inside(scope.clone())),
    }
}

/// Plans the layer of a new sandbox that starts from `checkpoint`: its template plus what was captured.
pub fn plan_fork(checkpoint: &TreeRef, scope: &Scope) -> LayerPlan {
    let bare = TreeRef { template: checkpoint.template.clone(), layer: None };
    plan_restore(checkpoint, scope, &bare, true)
}

/// Plans the layer of a new sandbox on a template.
pub fn plan_create(template: &TemplateRef) -> LayerPlan {
    LayerPlan { template: template.clone(), base: None, graft: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{scope::ScopeSpec, template::TemplateName};
    use uuid::Uuid;

    fn tree(template: &str, layer: u128) -> TreeRef {
        TreeRef {
            template: TemplateRef { name: TemplateName::parse(template).unwrap(), digest: "d".into() },
            layer: Some(LayerId::from_uuid(Uuid::from_u128(layer))),
        }
    }

    fn scope(include: &[&str], exclude: &[&str]) -> Scope {
        let owned = |list: &[&str]| list.iter().map(|text| text.to_string()).collect();
        Scope::parse(ScopeSpec { include_paths: owned(include), exclude_paths: owned(exclude), ..ScopeSpec::default() })
            .unwrap()
    }

    #[test]
    fn a_full_checkpoint_is_restored_and_forked_by_snapshot_alone() {
        let (saved, current) = (tree("other", 1), tree("default", 2));
        for plan in
            [plan_restore(&saved, &Scope::everything(), &current, true), plan_fork(&saved, &Scope::everything())]
        {
            assert_eq!((plan.template, plan.base), (saved.template.clone(), saved.layer));
            assert!(plan.graft.is_none());
        }
    }

    #[test]
    fn includes_are_grafted_onto_what_is_there() {
        let (saved, current) = (tree("default", 1), tree("other", 2));
        let plan = plan_restore(&saved, &scope(&["/workspace/src"], &[]), &current, true);
        assert_eq!((plan.template, plan.base), (current.template, current.layer));
        let graft = plan.graft.unwrap();
        assert_eq!(graft.from, saved);
        assert!(matches!(graft.region, Region::Inside(_)));

        let fork = plan_fork(&saved, &scope(&["/workspace/src"], &[]));
        assert_eq!((fork.template, fork.base), (saved.template, None));
    }

    #[test]
    fn what_was_excluded_keeps_its_current_state() {
        let (saved, current) = (tree("default", 1), tree("default", 2));
        let plan = plan_restore(&saved, &scope(&[], &["/workspace/node_modules"]), &current, true);
        assert_eq!(plan.base, saved.layer);
        let graft = plan.graft.unwrap();
        assert_eq!(graft.from, current);
        assert!(matches!(graft.region, Region::Outside(_)));
    }

    #[test]
    fn without_overwrite_the_current_tree_is_the_base() {
        let (saved, current) = (tree("default", 1), tree("default", 2));
        let plan = plan_restore(&saved, &Scope::everything(), &current, false);
        assert_eq!(plan.base, current.layer);
        assert!(!plan.graft.unwrap().overwrite);
    }
}
