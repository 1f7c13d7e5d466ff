// The playground's page.
document.title = 'tinygpt playground';
